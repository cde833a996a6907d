"""From masks, scores and orders over patches to a `Reduction`: the last step that methods share."""

from __future__ import annotations

import torch
from torch import Tensor

from saintprune.reduction.interface import LayerState, Reduction


def keep_all(state: LayerState) -> Reduction:
    """Every token survives where it is."""
    batch, tokens = state.keys.shape[:2]
    return Reduction(torch.arange(tokens, device=state.keys.device).expand(batch, tokens), state.valid)


def keep_masked(state: LayerState, mask: Tensor, count: int | None = None) -> Reduction:
    """The special tokens and the masked patches survive, in their order.

    Args:
        state: the layer.
        mask: [B, P] bool over patches; padding never survives, whatever the mask says.
        count: number of True per row where it is the same for all rows and known; it saves a device
            synchronisation. Ignored where the state has padding.

    Returns:
        A reduction with M = the largest count of a row; shorter rows are padded at their end.
    """
    if state.patch_valid is not None:
        mask, count = mask & state.patch_valid, None
    mask = torch.cat([mask.new_ones(mask.shape[0], state.prefix), mask], dim=1)  # (b, p) -> (b, n)
    batch, tokens = mask.shape
    lengths = mask.sum(1)
    width, shortest = (count + state.prefix,) * 2 if count is not None else _extent(lengths)
    index = torch.arange(tokens, device=mask.device).expand(batch, tokens)
    keep = at_slots(index, mask, mask.cumsum(1) - 1, width)  # a slot is the number of survivors before it
    if shortest == width:
        return Reduction(keep)
    return Reduction(keep, torch.arange(width, device=mask.device) < lengths[:, None])


def at_slots(values: Tensor, mask: Tensor, slot: Tensor, slots: int) -> Tensor:
    """Return the masked values at their slots, 0 at slots that none has.

    Args:
        values: [B, N] int64.
        mask: [B, N] bool.
        slot: [B, N] int64, of each masked value, no two in a row the same.
        slots: number of slots M.

    Returns:
        [B, M].
    """
    place = torch.where(mask, slot, slots)  # all others share one spare slot at the end
    return values.new_zeros(len(values), slots + 1).scatter_(1, place, values)[:, :slots]


def keep_top(state: LayerState, scores: Tensor, count: int | Tensor) -> Reduction:
    """The special tokens and the `count` patches with the largest scores survive, in their order.

    Args:
        state: the layer.
        scores: [B, P]; ties go to the earlier patch.
        count: patches to leave in each sample, or [B].
    """
    known = None if isinstance(count, Tensor) else min(max(count, 0), state.patches)
    return keep_masked(state, leading(ranked(state, scores), count), known)


def ranked(state: LayerState, scores: Tensor) -> Tensor:
    """Return [B, P]: the patches' numbers by falling score [B, P], ties to the earlier, padding last."""
    if state.patch_valid is not None:
        scores = scores.masked_fill(~state.patch_valid, -torch.inf)
    return scores.argsort(dim=1, descending=True, stable=True)


def leading(ranking: Tensor, count: int | Tensor) -> Tensor:
    """Return [B, A] bool: the candidates that a ranking [B, A] of their numbers names first, `count` (or [B]) a row."""
    place = torch.arange(ranking.shape[1], device=ranking.device)
    chosen = place < (count[:, None] if isinstance(count, Tensor) else count)
    return torch.zeros_like(ranking, dtype=torch.bool).scatter_(1, ranking, chosen.expand_as(ranking))


def reordered(reduction: Reduction, rank: Tensor, removed: int | Tensor) -> Reduction:
    """Return a dropping reduction with its survivors by rising rank [B, N]; padding stays at the end.

    A sample that loses nothing (`removed`, a number or [B], is 0) keeps its order, as it would alone.
    """
    if isinstance(removed, Tensor):
        place = torch.arange(rank.shape[1], device=rank.device)
        rank = torch.where(removed[:, None] > 0, rank, place)
    key = rank.gather(1, reduction.keep)
    if reduction.valid is not None:
        key = key.masked_fill(~reduction.valid, torch.iinfo(key.dtype).max)
    return Reduction(reduction.keep.gather(1, key.argsort(dim=1, stable=True)), reduction.valid)


def required_budget(state: LayerState, method: str) -> int:
    """Return the number of patches to leave, for methods that rank but do not decide how many."""
    if state.budget is None:
        raise ValueError(f"{method} ranks tokens but does not decide how many to keep: give the stage a schedule")
    return state.budget


def _extent(lengths: Tensor) -> tuple[int, int]:
    """Return (largest, smallest) of the lengths with one transfer from the device."""
    largest, smallest = torch.stack([lengths.max(), lengths.min()]).tolist()
    return largest, smallest
