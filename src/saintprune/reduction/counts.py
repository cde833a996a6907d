"""How many patches: the same whole numbers for a batch without padding (a number) and for one with it ([B])."""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor

from saintprune.reduction.interface import LayerState

Count: TypeAlias = int | Tensor
"""A number that is the same for all samples, or [B] int64."""


def real_patches(state: LayerState) -> Count:
    """Return how many patches there are: a number, or [B] where there is padding."""
    return state.patches if state.patch_valid is None else state.patch_valid.sum(1)


def share_of(count: Count, share: float) -> Count:
    """Return a share of a count, rounded up; in whole numbers, so that padding changes no result.

    Args:
        count: a number or [B].
        share: 0..1, exact to six digits.
    """
    return (count * round(share * 10**6) + 10**6 - 1) // 10**6


def at_most(wanted: Count, limit: Count) -> Count:
    """Return the smaller; one of [B] where the limit is."""
    if isinstance(limit, Tensor):
        return limit.clamp(max=wanted)
    return wanted.clamp(max=limit) if isinstance(wanted, Tensor) else min(wanted, limit)


def at_least(wanted: Count, limit: int) -> Count:
    """Return the larger."""
    return wanted.clamp_min(limit) if isinstance(wanted, Tensor) else max(wanted, limit)
