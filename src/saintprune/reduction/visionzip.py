"""VisionZip: dominant tokens by attention, the rest merged into contextual ones (Yang et al., arXiv 2412.04467)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from saintprune.reduction.interface import LayerState, Reducer, Reduction
from saintprune.reduction.merging import merged
from saintprune.reduction.survivors import keep_all, keep_masked, leading, ranked, required_budget


@dataclass(frozen=True)
class VisionZip(Reducer):
    """Of `state.budget` tokens, most are the ones of largest attention from the query row (`dominant`).

    Of the other patches, evenly spaced ones become targets, the j-th of C at place floor(j · rest / C) among them;
    each that is none joins its most similar target (cosine of keys), and a target becomes the mean of what joined it
    and itself (`contextual`). Means weigh by size where tokens were merged before.

    Deviation: the paper compares the tower's keys; here the keys are those of the site, at the projector the
    projected features.

    Attributes:
        contextual: share of the budget, 0..1; 10 of 64 by default.
    """

    contextual: float = 0.15625

    reads: ClassVar[frozenset[str]] = frozenset({"keys", "importance"})
    merges: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 <= self.contextual <= 1:
            raise ValueError(f"contextual is {self.contextual}, but a share lies in 0..1")

    def select(self, state: LayerState) -> Reduction:
        """Keep `state.budget` tokens, dominant and contextual ones in their order."""
        count = required_budget(state, "VisionZip")
        if count >= state.patches:
            return keep_all(state)
        scores = state.importance()[:, state.prefix :]
        real = torch.ones_like(scores, dtype=torch.bool) if state.patch_valid is None else state.patch_valid
        ranking = ranked(state, scores)
        contextual = round(count * self.contextual)
        dominant = leading(ranking, count - contextual) & real
        if not contextual:
            return keep_masked(state, dominant, count)
        rest = real & ~dominant
        targets = _evenly_spaced(rest, contextual)
        own = torch.arange(state.patches, device=scores.device).expand_as(ranking)
        home = torch.where(rest & ~targets, self._most_similar(state, targets, contextual), own) + state.prefix
        special = torch.arange(state.prefix, device=home.device).expand(len(home), -1)
        return merged(keep_masked(state, dominant | targets, count), torch.cat([special, home], dim=1))

    @staticmethod
    def _most_similar(state: LayerState, targets: Tensor, count: int) -> Tensor:
        """Return [B, P]: the number of the target, of `count` at most, that each patch is most similar to."""
        metric = F.normalize(state.keys[:, state.prefix :].float(), dim=-1)
        places = (~targets).long().argsort(dim=1, stable=True)[:, :count]  # (b, t): targets first, in their order
        chosen = metric.gather(1, places[..., None].expand(-1, -1, metric.shape[-1]))
        similarity = metric @ chosen.mT  # (b, p, t)
        similarity = similarity.masked_fill(~targets.gather(1, places)[:, None], -torch.inf)
        return places.gather(1, similarity.argmax(-1))


def _evenly_spaced(members: Tensor, count: int) -> Tensor:
    """Return [B, P] bool: of the members [B, P], those at places floor(j · total / count) among them."""
    total = members.sum(1, keepdim=True).clamp_min(1)
    place = members.long().cumsum(1) - 1

    def before(i: Tensor) -> Tensor:  # how many j have floor(j · total / count) < i
        return (i * count + total - 1) // total

    return members & (before(place + 1) > before(place))
