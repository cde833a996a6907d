"""From survivors to a `Reduction` that merges: who joins whom, and fusing all that is left over into one token."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from saintprune.reduction.counts import Count
from saintprune.reduction.interface import LayerState, Reduction
from saintprune.reduction.survivors import keep_masked, leading, ranked


def merged(kept: Reduction, target: Tensor) -> Reduction:
    """Add to survivors where the other tokens go.

    Args:
        kept: the survivors.
        target: [B, N] int64, the surviving token that each token joins; a token that survives, is dropped or is
            padding names itself.
    """
    batch, tokens = target.shape
    slots = torch.arange(kept.keep.shape[1], device=target.device).expand_as(kept.keep)
    index = kept.keep if kept.valid is None else torch.where(kept.valid, kept.keep, tokens)
    slot = torch.full((batch, tokens + 1), -1, device=target.device).scatter_(1, index, slots)[:, :tokens]
    return replace(kept, merge_to=slot.gather(1, target))


def fused(state: LayerState, scores: Tensor, left: Count) -> Reduction:
    """The patches with the largest scores survive; all others become one token, their mean weighted by the scores.

    That token stands where the best of those that it is made of stood.

    Args:
        state: the layer.
        scores: [B, P], not negative; ties go to the earlier patch.
        left: patches to leave, the fused one included: a number or [B], at most those that are there.
    """
    order = ranked(state, scores)
    mask = leading(order, left)
    kept = keep_masked(state, mask, left if isinstance(left, int) else None)
    last = left[:, None] - 1 if isinstance(left, Tensor) else order.new_full((len(order), 1), left - 1)
    seat = order.gather(1, last.clamp_min(0))  # (b, 1), the best of the rest
    joins = (~mask).scatter(1, seat, True)
    if state.patch_valid is not None:
        joins = joins & state.patch_valid
    place = torch.arange(state.patches, device=order.device)
    target = torch.where(joins, seat, place) + state.prefix
    special = torch.arange(state.prefix, device=order.device).expand(len(order), -1)
    weights = torch.where(joins, scores.float().clamp_min(1e-9), 1.0)  # attention may be exactly 0
    weights = torch.cat([weights.new_ones(special.shape), weights], dim=1)
    return replace(merged(kept, torch.cat([special, target], dim=1)), weights=weights)
