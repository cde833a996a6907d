"""VisPruner: important tokens by attention, and a share of diverse ones (Zhang et al., arXiv 2412.01818)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from saintprune.reduction.interface import LayerState, Reducer, Reduction
from saintprune.reduction.survivors import keep_all, keep_masked, leading, ranked, required_budget


@dataclass(frozen=True)
class VisPruner(Reducer):
    """Part of `state.budget` goes to the patches of largest attention from the query row, the rest to diverse ones.

    The others compete in rounds: those that are left alternate between sources and destinations, a source is as
    redundant as its largest cosine (of keys) to a destination, and the most redundant sources go, until the diverse
    share is left. At the projector the keys are the projected features; without a class token the query row is the
    mean query.

    The size of a round is ours: a share of what is left, so that one setting fits images of any number of tokens.

    Attributes:
        diverse: share of the budget for diverse patches, 0..1.
        per_round: share of the competing patches that one round removes at most, over 0 up to 0.5.
    """

    diverse: float = 0.5
    per_round: float = 0.25

    reads: ClassVar[frozenset[str]] = frozenset({"keys", "importance"})

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 <= self.diverse <= 1:
            raise ValueError(f"diverse is {self.diverse}, but a share lies in 0..1")
        if not 0 < self.per_round <= 0.5:
            raise ValueError(f"per_round is {self.per_round}, but must be over 0 and at most 0.5")

    def select(self, state: LayerState) -> Reduction:
        """Keep `state.budget` patches in their order; a round works on all samples at once."""
        count = required_budget(state, "VisPruner")
        if count >= state.patches:
            return keep_all(state)
        scores = state.importance()[:, state.prefix :]
        real = torch.ones_like(scores, dtype=torch.bool) if state.patch_valid is None else state.patch_valid
        ranking = ranked(state, scores)
        diverse = round(count * self.diverse)
        important = leading(ranking, count - diverse) & real
        if diverse:
            important = important | self._diverse(state, real & ~important, diverse)
        return keep_masked(state, important, count)

    def _diverse(self, state: LayerState, members: Tensor, target: int) -> Tensor:
        """Return [B, P] bool: the `target` members [B, P] that survive the rounds."""
        metric = F.normalize(state.keys[:, state.prefix :].float(), dim=-1)
        slots = state.patches - required_budget(state, "VisPruner") + target  # members of a sample without padding
        places, left = _leading_places(members, slots)
        while places.shape[1] > target:
            counts = left.sum(1)
            removed = self._removed(counts).minimum(counts - target).clamp_min(0)
            slots = max(target, slots - int(self._removed(torch.tensor(slots))))
            redundancy = _redundancy(metric, places, left)
            losers = leading(redundancy.argsort(dim=1, descending=True, stable=True), removed)
            left = left.clone()
            left[:, ::2] &= ~losers
            order, left = _leading_places(left, slots)
            places = places.gather(1, order)
        return torch.zeros_like(members).scatter_(1, places, left)

    def _removed(self, counts: Tensor) -> Tensor:
        """Return how many of so many one round removes, at least one."""
        return (counts * self.per_round).ceil().long().clamp_min(1)


def _leading_places(mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the places [B, count] of True in each row of a mask in their order, others after them, and which are."""
    places = (~mask).long().argsort(dim=1, stable=True)[:, :count]
    return places, mask.gather(1, places)


def _redundancy(metric: Tensor, places: Tensor, left: Tensor) -> Tensor:
    """Return [B, A]: of the patches at even places, the largest cosine to one at an odd place; -inf for padding."""
    found = metric.gather(1, places[..., None].expand(-1, -1, metric.shape[-1]))
    similarity = found[:, ::2] @ found[:, 1::2].mT
    similarity = similarity.masked_fill(~left[:, None, 1::2], -torch.inf)
    return similarity.amax(-1).masked_fill(~left[:, ::2], -torch.inf)
