"""Bootstrap confidence intervals."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def bootstrap(
    values: Tensor, statistic: Callable[[Tensor], Tensor], *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile interval of a statistic under resampling.

    Args:
        values: [n], one value per pair or sample.
        statistic: maps [draws, n] to [draws].
        level: of confidence.
        draws: resamples.
        seed: of the resampling.
    """
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(len(values), (draws, len(values)), generator=generator)
    found = statistic(values.double().cpu()[index])
    tail = (1 - level) / 2
    low, high = torch.quantile(found, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def median(values: Tensor) -> Tensor:
    """Return the median over the last dimension, the mean of the middle two for an even number."""
    return values.double().quantile(0.5, dim=-1)


def harmonic_mean(values: Tensor) -> Tensor:
    """Return the harmonic mean over the last dimension: of speed-ups, that of the time over all passes."""
    return 1 / mean(1 / values.double())


def mean(values: Tensor) -> Tensor:
    """Return the mean over the last dimension."""
    return values.double().mean(-1)
