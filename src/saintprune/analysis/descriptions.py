"""Descriptions of a set of curves without boundaries, and what a description costs.

M standardised curves of L layers are described with Gaussian errors, each curve with a variance of its own. A
description costs (lower is better)

    sum over curves of [ L log(RSS / L + t²)  +  log(L) d L / (L - d - 2) ]  +  2 log(places),

twice its length in nats: the errors, where t = TOLERANCE is a deviation, in standard deviations of the curve, below
which nothing is evidence; the d coefficients of the curve, as in the BIC with McQuarrie's (1999) correction for small
samples, for without it twelve layers are nearly always cut into four; and the boundaries, which all curves share: one
choice among the `places` that they might have had.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import isotonic_regression

TOLERANCE = 0.05


@dataclass(frozen=True, eq=False)
class Fit:
    """One description of M curves of L layers.

    Attributes:
        ends: end (exclusive) of each segment; the last is L.
        fitted: [M, L].
        squares: [M], residual sums of squares.
        coefficients: [M], number (of a smoother: effective number) of coefficients.
        score: what the description costs; lower is better.
    """

    ends: tuple[int, ...]
    fitted: np.ndarray
    squares: np.ndarray
    coefficients: np.ndarray
    score: float

    @property
    def variance(self) -> np.ndarray:
        """[M], mean square of the errors and of the tolerance."""
        return self.squares / self.fitted.shape[1] + TOLERANCE**2

    @property
    def misfit(self) -> float:
        """The part of the score that is about the errors."""
        return self.fitted.shape[1] * float(np.log(self.variance).sum())


def standardise(curves: np.ndarray) -> np.ndarray:
    """Return [M, L] with mean 0 and variance 1 over the layers; a constant curve becomes 0."""
    offset = curves - curves.mean(1, keepdims=True)
    spread = np.sqrt((offset**2).mean(1, keepdims=True))
    return offset / np.where(spread > 0, spread, 1)


def scores(squares: np.ndarray, coefficients: np.ndarray, layers: int) -> np.ndarray:
    """Return the score of each curve, without that of boundaries."""
    correction = layers / np.maximum(layers - coefficients - 2, 0.1)
    return layers * np.log(squares / layers + TOLERANCE**2) + np.log(layers) * coefficients * correction


def smooth(curves: np.ndarray) -> Fit:
    """Return the best description as a drift without boundaries.

    Each curve is constant, a straight line or a Whittaker smoother (which penalises squared second differences),
    whichever costs it least; its coefficients are the smoother's trace. Saturating curves, sigmoids and waves are such
    drifts.

    Args:
        curves: [M, L], standardised.
    """
    layers = curves.shape[1]
    matrices, coefficients = _smoothers(layers)
    fitted = np.einsum("kij,mj->kmi", matrices, curves)
    squares = ((curves - fitted) ** 2).sum(-1)
    each = scores(squares, coefficients[:, None], layers)  # (k, m)
    best, curve = each.argmin(0), np.arange(len(curves))
    return Fit((layers,), fitted[best, curve], squares[best, curve], coefficients[best], float(each[best, curve].sum()))


def walk(curves: np.ndarray) -> Fit:
    """Return the description as a random walk: every layer adds a step that owes nothing to the others.

    Each curve is foretold by its value one layer before; only the first value is a coefficient. Sums of random steps
    look as if they had stages, as any chart of prices does, and a residual network is a sum of steps.

    Args:
        curves: [M, L], standardised.
    """
    layers = curves.shape[1]
    before = np.concatenate([curves[:, :1], curves[:, :-1]], 1)
    squares = ((curves - before) ** 2).sum(1) * layers / (layers - 1)
    one = np.ones(len(curves))
    return Fit((layers,), before, squares, one, float(scores(squares, one, layers).sum()))


def monotone(curves: np.ndarray) -> Fit:
    """Return the best monotone description: each curve only rises or only falls (isotonic regression).

    Its coefficients are the steps that it takes. It has no score, as it may take any number of them.

    Args:
        curves: [M, L], standardised.
    """
    fitted = np.stack([_isotonic(curve) for curve in curves])
    steps = 1.0 + (np.abs(np.diff(fitted, axis=1)) > 1e-9).sum(1)
    return Fit((curves.shape[1],), fitted, ((curves - fitted) ** 2).sum(1), steps, float("nan"))


def _isotonic(curve: np.ndarray) -> np.ndarray:
    rising, falling = (np.asarray(isotonic_regression(curve, increasing=up).x) for up in (True, False))
    return rising if ((curve - rising) ** 2).sum() <= ((curve - falling) ** 2).sum() else falling


@lru_cache(maxsize=8)
def _smoothers(layers: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the smoothers' matrices [K, L, L] and traces [K], from constant to nearly free."""
    line = np.stack([np.ones(layers), np.arange(layers)], 1)
    bend = np.diff(np.eye(layers), 2, axis=0)
    matrices = [np.full((layers, layers), 1 / layers), line @ np.linalg.pinv(line)]
    matrices += [np.linalg.inv(np.eye(layers) + 10.0**power * bend.T @ bend) for power in np.arange(5, -2.1, -0.5)]
    stacked = np.stack(matrices)
    traces = np.trace(stacked, axis1=1, axis2=2)
    few = traces <= layers - 4
    return stacked[few], traces[few]
