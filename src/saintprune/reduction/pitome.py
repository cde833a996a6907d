"""PiToMe: merge where the similarity graph is dense, protect what stands alone (Tran et al., arXiv 2405.16148)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from saintprune.reduction.counts import Count, at_least, at_most, real_patches, share_of
from saintprune.reduction.interface import LayerState, Reducer, Reduction
from saintprune.reduction.merging import merged
from saintprune.reduction.survivors import keep_all, keep_masked


@dataclass(frozen=True)
class PiToMe(Reducer):
    """Patches of high energy, which have many similar ones, merge; the others are protected.

    With the cosine `x` of keys, the energy of a patch is the mean over the others of `f(x) = x` where `x >= m`, else
    `alpha (exp(x - m) - 1)`, with `m = margin (1 - l / L)` in block `l` of `L`. To merge `k` pairs, the `2k` patches of
    highest energy are sorted by it; the first, third, … form A, the others B; each of A merges into its most similar
    of B, by size-weighted mean. Special tokens stand apart: they neither merge nor count.

    Attributes:
        ratio: share of a layer's patches that it leaves, 0..1, rounded up; at most half of them merge.
        margin: m of the first block, -1..1.
        alpha: how far dissimilar patches lower the energy, >= 0.
    """

    ratio: float = 0.925
    margin: float = 0.9
    alpha: float = 1.0

    merges: ClassVar[bool] = True
    decides: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio is {self.ratio}, but a share lies in 0..1")
        if not -1 <= self.margin <= 1:
            raise ValueError(f"margin is {self.margin}, but a cosine lies in -1..1")
        if self.alpha < 0:
            raise ValueError(f"alpha is {self.alpha}, but must not be negative")

    def select(self, state: LayerState) -> Reduction:
        """Merge what `ratio` says, or as many pairs as `state.budget` asks for."""
        pairs = self._pairs(state)
        if isinstance(pairs, int) and not pairs:
            return keep_all(state)
        metric = F.normalize(state.keys[:, state.prefix :].float(), dim=-1)
        order = self._energy(state, metric).argsort(dim=1, descending=True, stable=True)
        width = pairs if isinstance(pairs, int) else state.patches // 2
        sources, destinations = order[:, : 2 * width : 2], order[:, 1 : 2 * width : 2]  # A and B: (b, width)
        place = torch.arange(width, device=order.device)
        chosen = (place < (pairs if isinstance(pairs, int) else pairs[:, None])).expand_as(sources)
        similarity = _rows(metric, sources) @ _rows(metric, destinations).mT  # (b, width, width)
        similarity = similarity.masked_fill(~chosen[:, None], -torch.inf)
        partner = torch.where(chosen, destinations.gather(1, similarity.argmax(-1)), sources)
        mask = torch.ones_like(order, dtype=torch.bool).scatter_(1, sources, ~chosen)
        kept = keep_masked(state, mask, state.patches - pairs if isinstance(pairs, int) else None)
        target = torch.arange(state.keys.shape[1], device=order.device).repeat(len(order), 1)
        return merged(kept, target.scatter_(1, sources + state.prefix, partner + state.prefix))

    def _pairs(self, state: LayerState) -> Count:
        """Return how many pairs merge: one number for the batch, or [B] where there is padding."""
        patches = real_patches(state)
        left = share_of(patches, self.ratio) if state.budget is None else state.budget
        return at_most(at_least(patches - left, 0), patches // 2)

    def _energy(self, state: LayerState, metric: Tensor) -> Tensor:
        """Return [B, P]: how redundant each patch is; padding is never redundant."""
        margin = self.margin * (1 - state.layer / state.depth)
        similarity = metric @ metric.mT  # (b, p, p)
        pull = torch.where(similarity >= margin, similarity, self.alpha * torch.expm1(similarity - margin))
        pull.diagonal(dim1=1, dim2=2).zero_()  # others only
        if state.patch_valid is None:
            return pull.sum(-1) / max(state.patches - 1, 1)
        real = state.patch_valid
        energy = pull.masked_fill(~real[:, None], 0).sum(-1) / (real.sum(1, keepdim=True) - 1).clamp_min(1)
        return energy.masked_fill(~real, -torch.inf)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Gather rows: x [B, P, C], index [B, M] -> [B, M, C]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
