"""The description of a set of curves in segments that they all share; see `saintprune.analysis.descriptions`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import comb
from typing import Any, NamedTuple

import numpy as np
from ruptures import Dynp
from ruptures.base import BaseCost

from saintprune.analysis.descriptions import TOLERANCE, Fit, scores, smooth

MOST = 4  # segments that are tried
ROUNDS = 3  # of segmentation, each with the variances that the last one left

Search = Callable[[np.ndarray, int, int], list[int]]


def shortest_segment(layers: int) -> int:
    """Return the layers that a segment has at least: two, and an eighth of a deep network."""
    return max(2, layers // 8)


def segmented(curves: np.ndarray, number: int, search: Search | None = None) -> Fit:
    """Return the best description in segments: in each, each curve is constant or a line of its own.

    For given variances of the errors the boundaries are found exactly, by dynamic programming. The variances start as
    what a smooth drift leaves and are estimated anew from each segmentation, while the score falls.

    Args:
        curves: [M, L], standardised.
        number: of segments.
        search: finds the boundaries; None is `by_table`.
    """
    pieces, search = Pieces.of(curves), search or by_table
    best = pieces.cut(number, smooth(curves).variance, search)
    for _ in range(ROUNDS - 1):
        cut = pieces.cut(number, best.squares / curves.shape[1] + TOLERANCE**2, search)
        if cut.score >= best.score - 1e-9:
            break
        best = cut
    return Fit(best.ends, pieces.fitted(best), best.squares, best.coefficients, best.score)


def by_ruptures(cost: np.ndarray, number: int, shortest: int) -> list[int]:
    """Return the ends of the cheapest segments: the search of the library `ruptures`.

    Args:
        cost: [L + 1, L + 1], of each stretch of layers s..e-1.
        number: of segments.
        shortest: layers that a segment has at least.
    """
    layers = len(cost) - 1
    if number == 1:
        return [layers]
    dynp = Dynp(custom_cost=_Costs(cost.tolist()), min_size=shortest, jump=1)
    return dynp.fit(np.zeros((layers, 1))).predict(number - 1)


def by_table(cost: np.ndarray, number: int, shortest: int) -> list[int]:
    """Return what `by_ruptures` returns, a hundred times faster: the thousands of draws of a null need it."""
    layers = len(cost) - 1
    place = np.arange(layers + 1)
    allowed = np.where(place[None, :] - place[:, None] >= shortest, cost, np.inf)
    cheapest, last = allowed[0], []  # of the first e layers
    for _ in range(number - 1):
        through = cheapest[:, None] + allowed  # (s, e): the last segment begins at s
        last.append(through.argmin(0))
        cheapest = through.min(0)
    ends = [layers]
    for starts in reversed(last):
        ends.append(int(starts[ends[-1]]))
    return ends[::-1]


class Cut(NamedTuple):
    """A segmentation: as `Fit`, with `lines` [M, number] bool, which curve is a line in which segment."""

    ends: tuple[int, ...]
    lines: np.ndarray
    squares: np.ndarray
    coefficients: np.ndarray
    score: float


@dataclass(frozen=True, eq=False)
class Pieces:
    """What each curve leaves unexplained on each stretch of layers.

    Attributes:
        curves: [M, L].
        constant: [M, L + 1, L + 1], indexed [m, s, e]: sum of squares about the mean of the layers s..e-1.
        line: the same about the best line; infinite where there are fewer than three layers.
    """

    curves: np.ndarray
    constant: np.ndarray
    line: np.ndarray

    @classmethod
    def of(cls, curves: np.ndarray) -> Pieces:
        """Compute them from running sums."""
        layers = curves.shape[1]
        time = np.arange(layers) - (layers - 1) / 2
        size = np.maximum(_stretches(np.ones(layers)), 1)
        level, slope = _stretches(curves), _stretches(time)
        constant = _stretches(curves**2) - level**2 / size
        spread = np.maximum(_stretches(time**2) - slope**2 / size, 1e-9)
        line = constant - (_stretches(time * curves) - slope * level / size) ** 2 / spread
        return cls(curves, np.maximum(constant, 0), np.where(size >= 3, np.maximum(line, 0), np.inf))

    def cut(self, number: int, variance: np.ndarray, search: Search) -> Cut:
        """Return the best segmentation for given variances [M] of the errors."""
        layers = self.curves.shape[1]
        coefficient, weight = np.log(layers), 1 / variance[:, None, None]
        flat, sloped = self.constant * weight + coefficient, self.line * weight + 2 * coefficient
        is_line = sloped < flat
        shortest = shortest_segment(layers)
        ends = search(np.where(is_line, sloped, flat).sum(0), number, shortest)
        starts = [0, *ends[:-1]]
        lines = is_line[:, starts, ends]  # (m, number)
        squares = np.where(lines, self.line[:, starts, ends], self.constant[:, starts, ends]).sum(1)
        coefficients = number + lines.sum(1).astype(float)
        places = comb(layers - number * shortest + number - 1, number - 1)
        score = float(scores(squares, coefficients, layers).sum() + 2 * np.log(places))
        return Cut(tuple(ends), lines, squares, coefficients, score)

    def fitted(self, cut: Cut) -> np.ndarray:
        """Return the curves [M, L] of a segmentation."""
        parts = []
        for number, (start, end) in enumerate(pairwise((0, *cut.ends))):
            part, time = self.curves[:, start:end], np.arange(end - start) - (end - start - 1) / 2
            slope = part @ time / max(float((time**2).sum()), 1e-9)
            parts.append(part.mean(1, keepdims=True) + np.where(cut.lines[:, number], slope, 0)[:, None] * time)
        return np.concatenate(parts, 1)


class _Costs(BaseCost):
    """Costs of stretches that ruptures looks up in a table, [s][e]."""

    min_size = 1

    def __init__(self, table: list[list[float]]) -> None:
        self.table = table

    @property
    def model(self) -> Any:
        """Its name."""
        return "table"

    def fit(self, signal: np.ndarray) -> Any:
        """Keep the signal, whose length ruptures asks for."""
        self.signal = signal
        return self

    def error(self, start: int, end: int) -> Any:
        """Return the cost of one stretch."""
        return self.table[start][end]


def _stretches(values: np.ndarray) -> np.ndarray:
    """Return the sums over all stretches: [..., L] -> [..., L + 1, L + 1], indexed [s, e]."""
    running = np.concatenate([np.zeros((*values.shape[:-1], 1)), values.cumsum(-1)], -1)
    return running[..., None, :] - running[..., :, None]
