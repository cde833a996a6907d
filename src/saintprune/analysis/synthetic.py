"""Curves whose stages are known: the instrument of `saintprune.analysis.stages` is tested on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from saintprune.analysis.curves import Curves


@dataclass(frozen=True)
class Noise:
    """What is added to the true curves, in units of a typical step between stages (1).

    Attributes:
        layers: irregularity of each layer, the same for all images; correlated between metrics.
        images: of each image and layer.
        offsets: of each image, the same at all layers.
    """

    layers: float = 0.15
    images: float = 0.5
    offsets: float = 0.5


def planted(
    layers: int, seed: int, *, metrics: int = 6, images: int = 64, slope: float = 0.25, noise: Noise = Noise()
) -> tuple[Curves, tuple[int, int]]:
    """Return curves with three stages, and the first layers of the second and the third.

    Each metric steps by 0.6 to 1.4 at both boundaries, half of them back at the second and the others up or down, and
    drifts by up to `slope` within a stage. A stage has at least a sixth of the layers.
    """
    rng = np.random.default_rng([seed, layers])
    shortest = max(3, layers // 6)
    first = int(rng.integers(shortest, layers - 2 * shortest + 1))
    second = int(rng.integers(first + shortest, layers - shortest + 1))
    ends = (0, first, second, layers)
    true = np.zeros((metrics, layers))
    for metric in range(metrics):
        turns = metric < (metrics + 1) // 2
        signs = rng.choice([-1, 1]) * np.array([1, -1 if turns else rng.choice([-1, 1])])
        levels = np.cumsum([0, *(rng.uniform(0.6, 1.4, 2) * signs)])
        for stage, level in enumerate(levels):
            part = slice(ends[stage], ends[stage + 1])
            drift = rng.uniform(-slope, slope) * np.linspace(-0.5, 0.5, part.stop - part.start)
            true[metric, part] = level + drift
    return noisy(true, rng, images, noise), (first, second)


def without_stages(
    shape: str, layers: int, seed: int, *, metrics: int = 6, images: int = 64, noise: Noise = Noise()
) -> Curves:
    """Return curves of a shape of `SHAPES`: flat, monotone, or a drift that turns. Sizes, signs and bends vary."""
    rng = np.random.default_rng([seed, layers])
    time = np.linspace(0, 1, layers)
    sizes = rng.uniform(1, 2, metrics) * rng.choice([-1, 1], metrics)
    return noisy(np.stack([size * SHAPES[shape](time, rng) for size in sizes]), rng, images, noise)


def noisy(true: np.ndarray, rng: np.random.Generator, images: int, noise: Noise) -> Curves:
    """Return the curves of many images about true ones [M, L]."""
    metrics, layers = true.shape
    mixing = np.eye(metrics) + rng.normal(scale=0.4, size=(metrics, metrics))
    mixing /= np.linalg.norm(mixing, axis=1, keepdims=True)
    values = true + noise.layers * mixing @ rng.normal(size=(metrics, layers))
    values = values + noise.images * rng.normal(size=(images, metrics, layers))
    values += noise.offsets * rng.normal(size=(images, metrics, 1))
    named = {f"metric_{number}": torch.from_numpy(values[:, number].copy()) for number in range(metrics)}
    return Curves("synthetic", layers, named)


def _walk(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    steps = rng.normal(size=len(time)).cumsum()
    return (steps - steps.min()) / np.ptp(steps)


def _staircase(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    steps = rng.gamma(0.5, size=len(time)).cumsum()
    return steps / steps[-1]


SHAPES: Mapping[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "flat": lambda time, rng: np.zeros_like(time),
    "linear": lambda time, rng: time,
    "saturating": lambda time, rng: 1 - np.exp(-time / rng.uniform(0.1, 0.5)),
    "sigmoid": lambda time, rng: 1 / (1 + np.exp(-(time - rng.uniform(0.3, 0.7)) / rng.uniform(0.04, 0.15))),
    "irregular": _staircase,
    "bowl": lambda time, rng: 4 * (time - rng.uniform(0.3, 0.7)) ** 2,
    "wave": lambda time, rng: np.sin(2 * np.pi * (time + rng.uniform(0, 0.3))) / 2,
    "walk": _walk,
}
"""Shapes over the depth 0..1: the first five are monotone; a walk is a sum of independent steps."""
