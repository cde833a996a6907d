"""ToMe: merge the most similar pairs of a bipartite matching (Bolya et al., arXiv 2210.09461)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from saintprune.reduction.interface import LayerState, Reducer, Reduction
from saintprune.reduction.merging import merged
from saintprune.reduction.survivors import keep_all, keep_masked, leading, reordered


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
        merges = self._merges(state)
        if isinstance(merges, int) and merges <= 0:
            return keep_all(state)
        best, partner = self._links(state)
        ranking = best.argsort(dim=1, descending=True, stable=True)  # (b, sources)
        leaves = leading(ranking, merges)
        mask = torch.ones(state.keys.shape[:2], dtype=torch.bool, device=ranking.device)
        mask[:, ::2] = ~leaves
        count = state.patches - merges if isinstance(merges, int) else None
        kept = keep_masked(state, mask[:, state.prefix :], count)
        if self.order == "reference":
            kept = reordered(kept, _reference_rank(state, ranking), merges)
        return _merging(state, kept, leaves, partner)

    def _merges(self, state: LayerState) -> int | Tensor:
        """Return how many pairs merge: one number for the batch, or [B] where there is padding."""
        if state.patch_valid is None:
            wanted = self.r if state.budget is None else state.patches - state.budget
            return min(wanted, state.patches // 2)
        patches = state.patch_valid.sum(1)
        wanted = torch.full_like(patches, self.r) if state.budget is None else patches - state.budget
        return wanted.clamp_min(0).minimum(patches // 2)

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
            best = best.masked_fill(~state.valid[:, ::2], -torch.inf)
        best[:, : (state.prefix + 1) // 2] = -torch.inf  # special tokens and padding rank last: they never merge
        return best, partner


def _reference_rank(state: LayerState, ranking: Tensor) -> Tensor:
    """Return [B, N] ranks: special tokens, sources (by place where there are special tokens), destinations."""
    tokens = state.keys.shape[1]
    rank = torch.arange(tokens, device=ranking.device).repeat(len(ranking), 1)
    if not state.prefix:
        place = torch.arange(ranking.shape[1], device=ranking.device).expand_as(ranking)
        rank[:, ::2] = torch.empty_like(ranking).scatter_(1, ranking, place)
    rank[:, 1::2] += tokens
    rank[:, : state.prefix] = torch.arange(state.prefix, device=ranking.device) - state.prefix
    return rank


def _merging(state: LayerState, kept: Reduction, leaves: Tensor, partner: Tensor) -> Reduction:
    """Add to the survivors where the sources that leave [B, A] go: to their partners' slots."""
    batch, tokens = state.keys.shape[:2]
    target = torch.arange(tokens, device=leaves.device).repeat(batch, 1)
    target[:, ::2] = torch.where(leaves, 2 * partner + 1, target[:, ::2])
    return merged(kept, target)
