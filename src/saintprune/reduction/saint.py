"""SAINT: drop tokens whose neighbourhood in a bipartite similarity graph is crowded (arXiv 2503.11549)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from saintprune.reduction.interface import LayerState, Reducer, Reduction
from saintprune.reduction.survivors import keep_all, keep_masked, keep_others, leading, reordered


@dataclass(frozen=True)
class Saint(Reducer):
    """Similarity-aware token pruning; the rule is the released program's, checked against its outputs.

    With `m` the L2-normalised keys, patches at even places are sources and those at odd places destinations;
    `S = m_source · m_destination`. A source's degree `c` counts its `S >= threshold`; its redundancy is
    `c * exp(gamma * (mean of those S - threshold))`, or the mean of all its `S` where `c = 0`. As many sources
    as reach `min_neighbours` are dropped, the most redundant first. Destinations and special tokens survive.

    Attributes:
        threshold: cosine from which two tokens are neighbours, -1..1.
        min_neighbours: degree K from which a source votes for dropping one token; an absolute count, >= 1.
        gamma: weight of how far the neighbours' similarity exceeds the threshold, >= 0.
        vote: "batch": every sample drops the floor of the batch's mean vote (the paper's; a sample's result then
            depends on who else is in the batch). "sample": each sample drops its own vote.
        order: of the survivors. "position": as they stood. "reference": special tokens, kept sources by falling
            redundancy, destinations; it changes which tokens are sources in the next layer.
    """

    threshold: float = 0.75
    min_neighbours: int = 5
    gamma: float = 10.0
    vote: Literal["batch", "sample"] = "batch"
    order: Literal["position", "reference"] = "position"

    decides: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the values."""
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}, but a cosine lies in -1..1")
        if self.min_neighbours < 1:
            raise ValueError(f"min_neighbours is {self.min_neighbours}, but must be at least 1")
        if self.gamma < 0:
            raise ValueError(f"gamma is {self.gamma}, but must not be negative")
        if self.vote not in ("batch", "sample"):
            raise ValueError(f"vote is {self.vote!r}, but must be 'batch' or 'sample'")
        if self.order not in ("position", "reference"):
            raise ValueError(f"order is {self.order!r}, but must be 'position' or 'reference'")

    def select(self, state: LayerState) -> Reduction:
        """Drop the most redundant sources: as many as the vote says, or as `state.budget` asks for.

        A layer drops at most its sources, ceil(P / 2) of P patches, also where a budget asks for more.
        """
        drops = self._asked(state)
        if state.patches < 2 or (isinstance(drops, int) and drops <= 0):
            return keep_all(state)
        degree, redundancy = self._redundancy(state)
        ranking = redundancy.argsort(dim=1, descending=True, stable=True)  # (b, sources)
        if drops is None:  # read from the device after the ranking, so that it works meanwhile
            drops = self._voted(degree)
        if isinstance(drops, int):
            if drops <= 0:
                return keep_all(state)
            reduction = keep_others(state, ranking[:, :drops], step=2)
        else:
            mask = torch.ones(len(ranking), state.patches, dtype=torch.bool, device=ranking.device)
            mask[:, ::2] = ~leading(ranking, drops)
            reduction = keep_masked(state, mask)
        return reduction if self.order == "position" else reordered(reduction, _reference_rank(state, ranking), drops)

    def _redundancy(self, state: LayerState) -> tuple[Tensor, Tensor]:
        """Return degree (int) and redundancy of each source, both [B, ceil(P/2)]."""
        keys = state.keys[:, state.prefix :].float()
        metric = keys / torch.linalg.vector_norm(keys, dim=-1, keepdim=True).clamp_min(1e-12)
        similarity = torch.bmm(metric[:, ::2], metric[:, 1::2].mT)  # (b, p, c) -> (b, sources, destinations)
        mean = similarity.mean(-1)
        if state.patch_valid is not None:
            source, destination = state.patch_valid[:, ::2], state.patch_valid[:, 1::2]
            mean = (similarity * destination[:, None]).sum(-1) / destination.sum(-1, keepdim=True).clamp_min(1)
            mean = mean.masked_fill(~source, -torch.inf)  # padding is never more redundant than a real token
            similarity = similarity.masked_fill(~(source[:, :, None] & destination[:, None]), -torch.inf)
        excess = similarity.sub_(self.threshold)  # >= 0 exactly where similarity >= threshold
        degree = (excess >= 0).sum(-1)
        mean_excess = excess.relu_().sum(-1).div_(degree)  # no number where the degree is 0
        return degree, torch.where(degree > 0, mean_excess.mul_(self.gamma).exp_().mul_(degree), mean)

    def _asked(self, state: LayerState) -> int | Tensor | None:
        """Return how many sources the budget drops: one number for the batch, or [B]; None where there is none."""
        if state.budget is None:
            return None
        if state.patch_valid is not None:
            patches = state.patch_valid.sum(1)
            return (patches - state.budget).clamp_min(0).minimum((patches + 1) // 2)
        return min(state.patches - state.budget, (state.patches + 1) // 2)

    def _voted(self, degree: Tensor) -> int | Tensor:
        """Return how many sources the votes drop, given their degrees: one number for the batch, or [B]."""
        votes = (degree >= self.min_neighbours).sum(1)  # (b)
        return votes if self.vote == "sample" else int(votes.sum()) // len(votes)


def _reference_rank(state: LayerState, ranking: Tensor) -> Tensor:
    """Return [B, N] ranks: special tokens, sources by falling redundancy, destinations."""
    tokens, sources = state.patches + state.prefix, ranking.shape[1]
    rank = torch.arange(tokens, device=ranking.device).repeat(len(ranking), 1)  # specials keep 0..prefix-1
    place = torch.arange(state.prefix, state.prefix + sources, device=ranking.device).expand_as(ranking)
    rank[:, state.prefix :: 2] = torch.empty_like(ranking).scatter_(1, ranking, place)
    rank[:, state.prefix + 1 :: 2] += tokens
    return rank
