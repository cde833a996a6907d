"""DART: keep the tokens that duplicate a few pivots least (Wen et al., arXiv 2502.11494)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from saintprune.reduction.interface import LayerState, Reducer, Reduction
from saintprune.reduction.survivors import keep_all, keep_top, leading, ranked, required_budget


@dataclass(frozen=True)
class Dart(Reducer):
    """The pivots, patches of largest key norm, survive; so do the patches least similar to them.

    A patch is as much of a duplicate as its largest cosine to a pivot, so that it must differ from every one of them
    to stay; the number comes from the stage's schedule. Ties go to the earlier patch.

    The rule that combines pivots is ours: all judge at once, so that their order is of no consequence. Pivots are image
    tokens, as a method sees no others; norms and cosines are those of the keys averaged over heads.

    Attributes:
        pivots: how many, >= 1; at most the budget.
    """

    pivots: int = 4

    def __post_init__(self) -> None:
        """Check the values."""
        if self.pivots < 1:
            raise ValueError(f"pivots is {self.pivots}, but must be at least 1")

    def select(self, state: LayerState) -> Reduction:
        """Keep `state.budget` patches, pivots first among them."""
        count = required_budget(state, "Dart")
        if count >= state.patches:
            return keep_all(state)
        keys = state.keys[:, state.prefix :].float()  # (b, n, c) -> (b, p, c)
        ranking = ranked(state, keys.norm(dim=-1))
        places = ranking[:, : min(self.pivots, count)]
        metric = F.normalize(keys, dim=-1)
        pivots = metric.gather(1, places[..., None].expand(-1, -1, metric.shape[-1]))
        similarity = metric @ pivots.mT  # (b, p, pivots)
        if state.patch_valid is not None:  # a sample may have fewer patches than pivots
            similarity = similarity.masked_fill(~state.patch_valid.gather(1, places)[:, None], -torch.inf)
        scores = -similarity.amax(-1)
        return keep_top(state, scores.masked_fill(leading(ranking, places.shape[1]), torch.inf), count)
