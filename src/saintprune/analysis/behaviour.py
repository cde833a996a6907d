"""Names of segments by what the tokens do in them, not by their order.

Curves are standardised over the layers. Diversity is the mean of the effective ranks and of the negated similarities
between tokens (cosines, neighbours, shares of edges). With MARGIN in standard deviations over the layers:

- explorer: the segment whose mean diversity is at least MARGIN above that of every other segment;
- aligner: a segment before the explorer, in which tokens are still being made alike: diversity falls by at least MARGIN
  from its first to its last layer (along a line), or each token resembles itself before the layer less than in the
  explorer, by at least MARGIN;
- aggregator: a segment after the explorer, in which tokens gather: the query row's attention is more concentrated and
  the tokens resemble the class (last) token more than in the explorer, by at least MARGIN in the mean of both; where
  neither was measured, it is enough that the segment is less diverse than the explorer.

A segment that behaves like none of them has no name, and two that behave alike have none either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saintprune.plan import NAMED

ALIGNER, EXPLORER, AGGREGATOR = NAMED
MARGIN = 0.3
_ALIKE = ("key_cosine", "state_cosine", "neighbour_cosine", "state_neighbour_cosine", "edges@", "degree@")
_DIVERSE = ("effective_rank",)


def names_of(curves: np.ndarray, metrics: Sequence[str], ends: Sequence[int]) -> tuple[str | None, ...]:
    """Return the name of each segment, None for one without.

    Args:
        curves: [M, L], standardised.
        metrics: names of the M metrics.
        ends: end (exclusive) of each segment; the last is L.
    """
    diversity = _family(curves, metrics, _DIVERSE, _ALIKE)
    none: tuple[str | None, ...] = (None,) * len(ends)
    if diversity is None or len(ends) < 2:
        return none
    segments = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    means = [float(diversity[segment].mean()) for segment in segments]
    top = int(np.argmax(means))
    if any(means[top] - mean < MARGIN for number, mean in enumerate(means) if number != top):
        return none
    signs = _Signs(
        diversity,
        _family(curves, metrics, ("self_similarity",), ()),
        _family(curves, metrics, ("cls_similarity",), ("attention_entropy",)),
        segments[top],
    )
    before = [signs.aligns(segment) for segment in segments[:top]]
    after = [signs.gathers(segment) for segment in segments[top + 1 :]]
    return (*_only(before, ALIGNER), EXPLORER, *_only(after, AGGREGATOR))


@dataclass(frozen=True, eq=False)
class _Signs:
    """Families of curves, each [L] or None where it was not measured, and the explorer."""

    diversity: np.ndarray
    self_similarity: np.ndarray | None
    gathering: np.ndarray | None
    explorer: slice

    def aligns(self, segment: slice) -> bool:
        """Whether tokens are still being made alike."""
        part = self.diversity[segment]
        change = np.polyfit(np.arange(len(part)), part, 1)[0] * (len(part) - 1)
        return bool(change <= -MARGIN) or _excess(self.self_similarity, self.explorer, segment) >= MARGIN

    def gathers(self, segment: slice) -> bool:
        """Whether tokens gather around the query token."""
        return self.gathering is None or _excess(self.gathering, segment, self.explorer) >= MARGIN


def _excess(curve: np.ndarray | None, one: slice, other: slice) -> float:
    """Return by how much the mean of a curve is higher in one segment than in another; -inf without a curve."""
    return -np.inf if curve is None else float(curve[one].mean() - curve[other].mean())


def _family(
    curves: np.ndarray, metrics: Sequence[str], plus: tuple[str, ...], minus: tuple[str, ...]
) -> np.ndarray | None:
    """Return [L], the mean of the curves whose names begin so, those of `minus` negated; None without any."""
    found = [curve for curve, name in zip(curves, metrics, strict=True) if name.startswith(plus)]
    found += [-curve for curve, name in zip(curves, metrics, strict=True) if minus and name.startswith(minus)]
    return np.mean(found, axis=0) if found else None


def _only(marks: list[bool], name: str) -> list[str | None]:
    """Return the name for the only marked segment; where several are marked, for none."""
    return [name if mark and marks.count(True) == 1 else None for mark in marks]
