"""Mean curves of images, and of images drawn anew with replacement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saintprune.analysis.curves import Curves
from saintprune.analysis.descriptions import standardise
from saintprune.analysis.nulls import Descriptions
from saintprune.analysis.segments import segmented


@dataclass(frozen=True, eq=False)
class Samples:
    """Curves per image: values [images, M, L]; NaN where an image has none."""

    metrics: tuple[str, ...]
    values: np.ndarray

    @classmethod
    def of(cls, curves: Curves, metrics: Sequence[str]) -> Samples:
        """Take those of the metrics that are known at every layer and change from layer to layer."""
        usable = [name for name in metrics if name in curves.values and _varies(curves.values[name].nanmean(0).numpy())]
        found = [curves.values[name].numpy() for name in usable]
        return cls(tuple(usable), np.stack(found, 1) if found else np.zeros((curves.images, 0, curves.layers)))

    @property
    def mean(self) -> np.ndarray:
        """[M, L], the mean over the images that have a value."""
        return self._means(np.ones((1, len(self.values))))[0]

    def drawn(self, draws: int, rng: np.random.Generator) -> np.ndarray:
        """Return [draws, M, L]: mean curves of as many images, drawn with replacement."""
        images = len(self.values)
        return self._means(rng.multinomial(images, np.full(images, 1 / images), size=draws).astype(float))

    def _means(self, weights: np.ndarray) -> np.ndarray:
        """Return the means [draws, M, L] for weights [draws, images]; where no image counts, that of all."""
        known = np.isfinite(self.values)
        total = np.tensordot(weights, np.where(known, self.values, 0), 1)
        count = np.tensordot(weights, known.astype(float), 1)
        everything = np.where(known, self.values, 0).sum(0) / known.sum(0)
        return np.where(count > 0, total / np.maximum(count, 1), everything)

    def boundaries(self, draws: int, rng: np.random.Generator) -> np.ndarray:
        """Return [draws, 2]: the boundaries of three segments for images drawn anew."""
        return np.array([segmented(standardise(curves), 3).ends[:2] for curves in self.drawn(draws, rng)])

    def margins(self, draws: int, rng: np.random.Generator) -> np.ndarray:
        """Return [draws]: by how much three segments pass per metric (`Descriptions.margin`), for images drawn anew."""
        return np.array([Descriptions.of(curves, 3).margin / max(1, len(curves)) for curves in self.drawn(draws, rng)])


def _varies(curve: np.ndarray) -> bool:
    """Whether a mean curve is finite and more than rounding errors apart from a constant."""
    return bool(np.isfinite(curve).all() and np.ptp(curve) > 1e-9 * max(1e-30, np.abs(curve).max()))
