"""Null hypotheses about stages, each answered by simulation: could curves without three stages look like these?

Where a null is a description of the curves, new curves are drawn from it: what it fitted plus Gaussian errors with the
covariance, over the curves, of the errors that it left, so that metrics that say the same thing do not count twice. A
p-value is (1 + draws that reach what was observed) / (1 + draws).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from saintprune.analysis.descriptions import Fit, monotone, smooth, standardise, walk
from saintprune.analysis.segments import MOST, Search, by_table, segmented

MONOTONE_STEP = 1.5  # degrees of freedom that a step of an isotonic regression uses (Meyer and Woodroofe 2000: 1 to 2)


@dataclass(frozen=True, eq=False)
class Descriptions:
    """All descriptions of a set of curves.

    Attributes:
        curves: [M, L], standardised.
        segments: by number of segments, 1 to 4.
        smooth: the drift without boundaries.
        walk: the random walk.
    """

    curves: np.ndarray
    segments: dict[int, Fit]
    smooth: Fit
    walk: Fit

    @classmethod
    def of(cls, curves: np.ndarray, most: int = MOST, search: Search = by_table) -> Descriptions:
        """Describe curves [M, L], which are standardised first, in up to `most` segments."""
        curves = standardise(curves)
        segments = {number: segmented(curves, number, search) for number in range(1, most + 1)}
        return cls(curves, segments, smooth(curves), walk(curves))

    @property
    def simpler(self) -> Fit:
        """The best of the descriptions that are simpler than three segments: one, two, or a drift."""
        return min((self.segments[1], self.segments[2], self.smooth), key=lambda fit: fit.score)

    @property
    def gain(self) -> float:
        """How much better three segments are than the best simpler description and than a random walk."""
        return min(self.simpler.score, self.walk.score) - self.segments[3].score

    @property
    def margin(self) -> float:
        """By how much three segments pass: their gain, or what they explain beyond monotone curves, if that is less.

        Curves without a turn may well be cheaper in three pieces than as a drift, and such cuts mean nothing.
        """
        return min(self.gain, monotone(self.curves).misfit - self.segments[3].misfit)


def p_simpler(found: Descriptions, draws: int, rng: np.random.Generator) -> float:
    """Return how often curves of the best simpler description gain as much from three segments."""
    simpler = found.simpler

    def gain() -> float:
        return Descriptions.of(_drawn(found.curves, simpler, simpler.coefficients, rng), 3).gain

    return _p_value(found.gain, gain, draws)


def p_walk(found: Descriptions, draws: int, rng: np.random.Generator) -> float:
    """Return how often random walks with steps like the curves' own gain as much from three segments."""
    return _p_value(found.gain, lambda: Descriptions.of(_walked(found.curves, rng), 3).gain, draws)


def p_more(found: Descriptions, draws: int, rng: np.random.Generator) -> float:
    """Return how often curves with three stages gain as much from a fourth."""

    def gain(curves: np.ndarray) -> float:
        return segmented(curves, 3).score - segmented(curves, 4).score

    three = found.segments[3]
    observed = three.score - found.segments[4].score
    return _p_value(observed, lambda: gain(standardise(_drawn(found.curves, three, three.coefficients, rng))), draws)


def p_monotone(found: Descriptions, draws: int, rng: np.random.Generator) -> float:
    """Return how often curves that only rise or only fall depart as much from the best monotone ones.

    A monotone curve, however it bends, can be cut into as many parts as one likes: it has a course, not three stages.
    The departure is what three segments explain and monotone curves do not.
    """

    def departure(curves: np.ndarray) -> float:
        return monotone(curves).misfit - segmented(curves, 3).misfit

    null = monotone(found.curves)
    used = MONOTONE_STEP * null.coefficients
    observed = null.misfit - found.segments[3].misfit
    return _p_value(observed, lambda: departure(standardise(_drawn(found.curves, null, used, rng))), draws)


def p_shuffled(found: Descriptions, draws: int, rng: np.random.Generator) -> float:
    """Return how often three segments describe the layers in a random order as well."""
    curves = found.curves
    layers = curves.shape[1]
    return _p_value(-found.segments[3].score, lambda: -segmented(curves[:, rng.permutation(layers)], 3).score, draws)


def boundaries_of_redrawn(found: Descriptions, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return [draws, 2]: the boundaries if each layer's deviation from its segment were another of the same kind."""
    three = found.segments[3]
    redrawn = (standardise(_drawn(found.curves, three, three.coefficients, rng)) for _ in range(draws))
    return np.array([segmented(curves, 3).ends[:2] for curves in redrawn])


def _drawn(curves: np.ndarray, null: Fit, coefficients: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return curves [M, L] drawn from a null that used some coefficients [M] per curve."""
    layers = curves.shape[1]
    errors = (curves - null.fitted) / np.sqrt(np.maximum(layers - coefficients, 2))[:, None]
    return null.fitted + errors @ rng.normal(size=(layers, layers))


def _walked(curves: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return random walks [M, L] with Gaussian steps that have the covariance of the curves' own."""
    steps = np.diff(curves, axis=1)
    drawn = steps @ rng.normal(size=(steps.shape[1], curves.shape[1])) / np.sqrt(steps.shape[1])
    return drawn.cumsum(1)


def _p_value(observed: float, draw: Callable[[], float], draws: int) -> float:
    return (1 + sum(draw() >= observed for _ in range(draws))) / (1 + draws)
