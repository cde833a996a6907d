"""SparseVLM: text tokens rate image tokens, and some that go are recycled (Zhang et al., arXiv 2410.04417)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from saintprune.reduction.density import density_peaks
from saintprune.reduction.interface import LayerState, Reducer, Reduction
from saintprune.reduction.merging import merged
from saintprune.reduction.survivors import keep_all, keep_masked, keep_top, ranked, required_budget


@dataclass(frozen=True)
class SparseVLM(Reducer):
    """The text tokens that give the image at least the average attention are raters; a patch's score is their mean.

    Of `state.budget` tokens C are means of recycled patches, the others are the patches of largest score. With n
    patches the budget drops n − budget; R = round(recycle · (n − budget)) of those are recycled, C = ceil(R /
    per_cluster) clusters take their place. The R + C patches that follow the kept ones by score are clustered by
    density peaks on the tokens themselves; a cluster's centre stands for its size-weighted mean.

    Deviation: the number of tokens comes from the stage's schedule; the paper finds it from the rank of the attention.
    Raters are chosen anew at each pruned layer, by its own attention; the size of the clusters is ours. Text before
    the image cannot attend to it in a causal decoder, so that it rates nothing; without any text behind the image the
    earlier patches stay.

    Attributes:
        recycle: share of the dropped patches that is recycled, 0..1; 0 is off.
        per_cluster: recycled patches per cluster mean, >= 1.
        neighbours: by whose distance density is estimated, >= 1.
    """

    recycle: float = 0.3
    per_cluster: int = 10
    neighbours: int = 5

    reads: ClassVar[frozenset[str]] = frozenset({"text_attention"})
    merges: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 <= self.recycle <= 1:
            raise ValueError(f"recycle is {self.recycle}, but a share lies in 0..1")
        if self.per_cluster < 1 or self.neighbours < 1:
            raise ValueError(
                f"per_cluster is {self.per_cluster} and neighbours {self.neighbours}, but both must be at least 1"
            )

    def select(self, state: LayerState) -> Reduction:
        """Keep `state.budget` tokens, C of them means."""
        count = required_budget(state, "SparseVLM")
        if count >= state.patches:
            return keep_all(state)
        scores = self._scores(state)
        most, _ = self._recycled(state.patches, count)  # no sample has more clusters than one without padding
        if not most:
            return keep_top(state, scores, count)
        order = ranked(state, scores)
        clusters, recycled = self._counts(state, count)  # (b, 1)
        rank = order.argsort(dim=1)
        kept = rank < count - clusters
        centre, home = self._clusters(state, order, count, clusters, recycled)
        special = torch.arange(state.prefix, device=order.device).expand(len(order), -1)
        own = torch.arange(state.patches, device=order.device).expand_as(order)
        home = torch.where(kept | (home < 0), own, home) + state.prefix  # what is dropped names itself
        return merged(keep_masked(state, kept | centre, count), torch.cat([special, home], dim=1))

    @staticmethod
    def _scores(state: LayerState) -> Tensor:
        """Return [B, P]: the raters' mean attention to each patch."""
        rows, present = state.text_attention()  # (b, t, n), (b, t)
        rows = rows[..., state.prefix :].float().masked_fill(~present[..., None], 0)
        if state.patch_valid is not None:
            rows = rows * state.patch_valid[:, None]
        given = rows.sum(-1)
        average = given.sum(1, keepdim=True) / present.sum(1, keepdim=True).clamp_min(1)
        raters = present & (given >= average * (1 - 1e-6))  # equal ones are all raters, whatever their sum rounds to
        return (rows * raters[..., None]).sum(1) / raters.sum(1, keepdim=True).clamp_min(1)

    def _recycled(self, patches: int, count: int) -> tuple[int, int]:
        """Return (C, R) for a sample with so many patches: clusters, and patches recycled beyond them."""
        recycled = round(self.recycle * max(patches - count, 0))
        return min(math.ceil(recycled / self.per_cluster), count - 1), recycled

    def _counts(self, state: LayerState, count: int) -> tuple[Tensor, Tensor]:
        """Return C and R of each sample, both [B, 1]."""
        sizes = range(state.patches + 1) if state.patch_valid is not None else (state.patches,)
        found = torch.tensor([self._recycled(size, count) for size in sizes], device=state.keys.device)
        if state.patch_valid is not None:
            found = found[state.patch_valid.sum(1)]
        return found[:, :1], found[:, 1:]

    def _clusters(
        self, state: LayerState, order: Tensor, count: int, clusters: Tensor, recycled: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cluster the patches that follow the kept ones; return, [B, P] each, the centres and each member's centre."""
        if state.tokens is None:
            raise ValueError("SparseVLM recycles tokens, and this state has none")
        most, width = self._recycled(state.patches, count)
        slot = torch.arange(min(most + width, state.patches), device=order.device)
        present = (slot < clusters + recycled).expand(len(order), -1)
        places = order.gather(1, (slot + count - clusters).clamp(0, state.patches - 1).expand(len(order), -1))
        tokens = state.tokens[:, state.prefix :].float()
        found = tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))
        centre, nearest = density_peaks(found, present, clusters[:, 0].expand(len(order)), most, self.neighbours)
        # padding shares a place with a member: it goes to a spare column
        spare = places.masked_fill(~present, state.patches)
        blank = torch.zeros(len(order), state.patches + 1, dtype=torch.bool, device=order.device)
        home = order.new_full(blank.shape, -1)
        return (
            blank.scatter_(1, spare, centre)[:, : state.patches],
            home.scatter_(1, spare, places.gather(1, nearest))[:, : state.patches],
        )
