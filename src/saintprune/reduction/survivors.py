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
    mask = mask if state.patch_valid is None else mask & state.patch_valid
    if state.prefix:
        mask = torch.cat([mask.new_ones(mask.shape[0], state.prefix), mask], dim=1)  # (b, p) -> (b, n)
    return _keep_tokens(mask, None if count is None or state.valid is not None else count + state.prefix)


def keep_others(state: LayerState, dropped: Tensor, step: int = 1) -> Reduction:
    """All tokens but some patches survive, in their order.

    Args:
        state: the layer.
        dropped: [B, D] int64, numbers of the patches that go, no two in a row the same.
        step: what the numbers count: every patch, or with 2 every second, from the first on.
    """
    batch, tokens = state.keys.shape[:2]
    if state.valid is None:
        mask = torch.ones(batch, tokens, dtype=torch.bool, device=dropped.device)
    else:
        mask = state.valid.clone()
    mask[:, state.prefix :: step].scatter_(1, dropped, False)
    return _keep_tokens(mask, None if state.valid is not None else tokens - dropped.shape[1])


def _keep_tokens(mask: Tensor, count: int | None) -> Reduction:
    """The tokens survive that a mask [B, N] names, `count` a row where that is known; shorter rows are padded."""
    if count is not None:
        return Reduction(places_of(mask, count))
    lengths = mask.sum(1)
    width, shortest = _extent(lengths)
    if shortest == width:
        return Reduction(places_of(mask, width))
    index = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    keep = at_slots(index, mask, mask.cumsum(1) - 1, width)  # a slot is the number of survivors before it
    return Reduction(keep, torch.arange(width, device=mask.device) < lengths[:, None])


def places_of(mask: Tensor, count: int) -> Tensor:
    """Return [B, count], rising: where a mask [B, N] is True, which it is `count` times in each row."""
    if mask.device.type == "cpu":
        return mask.nonzero()[:, 1].view(len(mask), count)
    return mask.sort(dim=1, descending=True, stable=True).indices[:, :count]  # to count would make devices wait


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
    order = ranked(state, scores)
    if isinstance(count, Tensor):
        return keep_masked(state, leading(order, count))
    return keep_others(state, order[:, max(count, 0) :])


def ranked(state: LayerState, scores: Tensor) -> Tensor:
    """Return [B, P]: the patches' numbers by falling score [B, P], ties to the earlier, padding last."""
    if state.patch_valid is not None:
        scores = scores.masked_fill(~state.patch_valid, -torch.inf)
    return scores.argsort(dim=1, descending=True, stable=True)


def leading(ranking: Tensor, count: int | Tensor) -> Tensor:
    """Return [B, A] bool: the candidates that a ranking [B, A] of their numbers names first, `count` (or [B]) a row."""
    chosen = torch.zeros_like(ranking, dtype=torch.bool)
    if not isinstance(count, Tensor):
        return chosen.scatter_(1, ranking[:, : max(count, 0)], True)
    place = torch.arange(ranking.shape[1], device=ranking.device)
    return chosen.scatter_(1, ranking, (place < count[:, None]).expand_as(ranking))


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
    known = lengths.tolist()
    return max(known), min(known)
