"""ToMe: merge the most similar pairs of a bipartite matching (Bolya et al., arXiv 2210.09461)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from saintprune.reduction.interface import LayerState, Reducer, Reduction
from saintprune.reduction.survivors import keep_all


@dataclass(frozen=True)
class ToMe(Reducer):
    """Each source (even place of the whole sequence) links to its most similar destination (odd place) by the
    cosine of keys; the `r` best links merge by size-weighted mean. Special tokens neither merge nor receive.

    Attributes:
        r: tokens to merge in a layer, >= 0; at most half of the patches.
        order: of the survivors. "reference": special tokens, kept sources (by place where there are special
            tokens, else by falling similarity), destinations, as in the original; "position": as they stood.
    """

    r: int = 8
    order: Literal["reference", "position"] = "reference"

    merges: ClassVar[bool] = True
    decides: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the values."""
        if self.r < 0:
            raise ValueError(f"r is {self.r}, but must not be negative")
        if self.order not in ("reference", "position"):
            raise ValueError(f"order is {self.order!r}, but must be 'reference' or 'position'")

    def select(self, state: LayerState) -> Reduction:
        """Merge `r` pairs, or as many as `state.budget` asks for."""
        r = self.r if state.budget is None else state.patches - state.budget
        r = min(r, state.patches // 2)
        if r <= 0:
            return keep_all(state)
        best, partner = self._links(state)
        ranking = best.argsort(dim=1, descending=True, stable=True)  # (b, sources)
        merged, kept = ranking[:, :r], ranking[:, r:]
        if state.prefix:
            kept = kept.sort(dim=1).values
        odd = torch.arange(1, state.keys.shape[1], 2, device=ranking.device).expand(len(ranking), -1)
        keep = torch.cat([2 * kept, odd], dim=1)  # (b, m)
        place = keep if self.order == "position" else torch.where(keep < state.prefix, keep - state.prefix, 0)
        keep = keep.gather(1, place.argsort(dim=1, stable=True))
        linked = best.gather(1, merged) >= -1  # padding goes without a link
        return self._reduction(state, keep, 2 * merged, 2 * partner.gather(1, merged) + 1, linked)

    @staticmethod
    def _links(state: LayerState) -> tuple[Tensor, Tensor]:
        """Return each source's best similarity and its destination's number among destinations, both [B, A]."""
        metric = F.normalize(state.keys.float(), dim=-1)
        similarity = metric[:, ::2] @ metric[:, 1::2].mT  # (b, n, c) -> (b, sources, destinations)
        similarity[:, :, : state.prefix // 2] = -torch.inf
        if state.valid is not None:
            similarity.masked_fill_(~state.valid[:, None, 1::2], -torch.inf)
        best, partner = similarity.max(-1)
        if state.valid is not None:
            best = best.masked_fill(~state.valid[:, ::2], -2.0)  # below any cosine: padding leaves after all real links
        best[:, : (state.prefix + 1) // 2] = -torch.inf  # but before special tokens, which never leave
        return best, partner

    @staticmethod
    def _reduction(state: LayerState, keep: Tensor, merged: Tensor, partner: Tensor, linked: Tensor) -> Reduction:
        """Turn survivors [B, M] and merging pairs [B, r] (all indices into 0..N-1) into a `Reduction`."""
        slots = torch.arange(keep.shape[1], device=keep.device).expand_as(keep)
        merge_to = torch.full(state.keys.shape[:2], -1, device=keep.device).scatter_(1, keep, slots)
        merge_to.scatter_(1, merged, torch.where(linked, merge_to.gather(1, partner), -1))
        if state.valid is None:
            return Reduction(keep, None, merge_to)
        return Reduction(keep, state.valid.gather(1, keep), merge_to.masked_fill(~state.valid, -1))
