"""Bootstrap confidence intervals."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

AT_ONCE = 2**22  # numbers of resamples in memory: 32 MiB of indices, and as much of values


def bootstrap(
    values: Tensor, statistic: Callable[[Tensor], Tensor], *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile interval of a statistic under resampling.

    Args:
        values: [n] or [n, ...], one per pair or sample.
        statistic: maps [draws, n] (or [draws, n, ...]) to [draws]; is given some of the draws at a time.
        level: of confidence.
        draws: resamples.
        seed: of the resampling.
    """
    generator = torch.Generator().manual_seed(seed)
    values, rows = values.double().cpu(), max(1, AT_ONCE // len(values))
    found = []
    for first in range(0, draws, rows):  # one stream of numbers, however many rows at a time take theirs from it
        index = torch.randint(len(values), (min(rows, draws - first), len(values)), generator=generator)
        found.append(statistic(values[index]))
    tail = (1 - level) / 2
    low, high = torch.quantile(torch.cat(found), torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def interval_of_mean(values: Tensor, groups: Tensor | None = None) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean over samples; where these come in groups, whole groups are drawn.

    Args:
        values: [n].
        groups: int64 [n], alike for samples that depend on each other, such as questions about one image; None where
            each stands by itself.
    """
    if groups is None:
        return bootstrap(values, mean)
    group = groups.unique(return_inverse=True)[1]
    values = values.double().cpu()
    sums = torch.zeros(int(group.max()) + 1, 2, dtype=torch.float64)  # of each group, and how many it has
    sums.index_add_(0, group, torch.stack([values, torch.ones_like(values)], -1))
    return bootstrap(sums, lambda drawn: drawn[..., 0].sum(-1) / drawn[..., 1].sum(-1))


def median(values: Tensor) -> Tensor:
    """Return the median over the last dimension, the mean of the middle two for an even number."""
    return values.double().quantile(0.5, dim=-1)


def harmonic_mean(values: Tensor) -> Tensor:
    """Return the harmonic mean over the last dimension: of speed-ups, that of the time over all passes."""
    return 1 / mean(1 / values.double())


def mean(values: Tensor) -> Tensor:
    """Return the mean over the last dimension."""
    return values.double().mean(-1)
