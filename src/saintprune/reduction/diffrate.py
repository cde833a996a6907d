"""DiffRate: how many patches each layer drops and merges comes from a table (Chen et al., arXiv 2305.17997)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from saintprune.reduction.counts import Count, at_least, at_most, real_patches, share_of
from saintprune.reduction.interface import LayerState, Reducer, Reduction
from saintprune.reduction.merging import merged
from saintprune.reduction.survivors import keep_all, keep_masked, leading, ranked


@dataclass(frozen=True)
class DiffRate(Reducer):
    """Ranked by attention from the query row, a layer's last patches are dropped; those before them merge, each into
    its most similar (cosine of keys) of the patches that stay, by size-weighted mean.

    The paper learns the two counts of each layer by gradients; here they are read from a table. Under a schedule the
    schedule says how many leave, and the layer's entries in which proportion they are dropped and merged (where both
    are 0, all merge).

    Attributes:
        prune: for each block of the network, how many patches are dropped: a number (int) or a share of the patches
            that reach the block (float, 0..1), rounded down.
        merge: the same for merging. At least one patch stays.
    """

    prune: Sequence[int | float]
    merge: Sequence[int | float]

    reads: ClassVar[frozenset[str]] = frozenset({"keys", "importance"})
    merges: ClassVar[bool] = True
    decides: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the values."""
        object.__setattr__(self, "prune", tuple(self.prune))
        object.__setattr__(self, "merge", tuple(self.merge))
        if len(self.prune) != len(self.merge):
            raise ValueError(f"prune has {len(self.prune)} entries and merge {len(self.merge)}: one per block in each")
        for name in ("prune", "merge"):
            for entry in getattr(self, name):
                if entry < 0 or (isinstance(entry, float) and entry > 1):
                    raise ValueError(
                        f"{name} has {entry}, but entries are numbers (ints, >= 0) or shares (floats, 0..1)"
                    )

    def select(self, state: LayerState) -> Reduction:
        """Drop and merge as the table says, or down to `state.budget`."""
        if state.depth != len(self.prune):
            raise ValueError(
                f"the table (prune, merge) has {len(self.prune)} entries, but the network has {state.depth} blocks:"
                " give one entry per block"
            )
        dropped, joined = self._counts(state)
        left = real_patches(state) - dropped - joined
        if isinstance(left, int) and left >= state.patches:
            return keep_all(state)
        order = ranked(state, state.importance()[:, state.prefix :])
        kept = keep_masked(state, leading(order, left), left if isinstance(left, int) else None)
        if isinstance(joined, int) and not joined:
            return kept
        target = torch.arange(state.keys.shape[1], device=order.device).repeat(len(order), 1)
        joins = order.gather(1, _partners(state, order, left, left + joined))
        return merged(kept, target.scatter_(1, order + state.prefix, joins + state.prefix))

    def _counts(self, state: LayerState) -> tuple[Count, Count]:
        """Return how many patches are dropped and how many merge: numbers for the batch, or [B]."""
        patches = real_patches(state)
        most = at_least(patches - 1, 0)  # one stays
        dropped = at_most(_entry(self.prune[state.layer], patches), most)
        joined = at_most(_entry(self.merge[state.layer], patches), most - dropped)
        if state.budget is None:
            return dropped, joined
        leaving = at_most(at_least(patches - state.budget, 0), most)
        shared = leaving * dropped // at_least(dropped + joined, 1)
        return shared, leaving - shared


def _entry(entry: int | float, patches: Count) -> Count:
    return patches - share_of(patches, 1 - entry) if isinstance(entry, float) else entry


def _partners(state: LayerState, order: Tensor, left: Count, end: Count) -> Tensor:
    """Return [B, P]: for each rank the rank of the patch it joins, itself unless it is one of `left`..`end - 1`."""
    metric = F.normalize(state.keys[:, state.prefix :].float(), dim=-1)
    ranked = metric.gather(1, order[..., None].expand(-1, -1, metric.shape[-1]))
    rank = torch.arange(order.shape[1], device=order.device).expand_as(order)
    if isinstance(left, int) and isinstance(end, int):
        best = (ranked[:, left:end] @ ranked[:, :left].mT).argmax(-1)  # (b, joined)
        return torch.cat([rank[:, :left], best, rank[:, end:]], dim=1)
    assert isinstance(left, Tensor) and isinstance(end, Tensor)
    stays = rank < left[:, None]
    best = (ranked @ ranked.mT).masked_fill_(~stays[:, None], -torch.inf).argmax(-1)
    return torch.where(~stays & (rank < end[:, None]), best, rank)
