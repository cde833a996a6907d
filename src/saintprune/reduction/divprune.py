"""DivPrune: keep the subset whose members lie farthest apart (Alvar et al., arXiv 2503.02175)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from saintprune.reduction.interface import LayerState, Reducer, Reduction
from saintprune.reduction.survivors import keep_all, keep_masked, required_budget


@dataclass(frozen=True)
class DivPrune(Reducer):
    """Greedy max–min diversity under the distance d(i, j) = 1 − cos(i, j) of keys.

    The first is the patch whose nearest other patch is farthest; then, step by step, the patch whose nearest chosen
    one is farthest. It decides no number: that comes from the stage's schedule. Ties go to the earlier patch.

    At the projector the keys are the projected features, as in the paper.
    """

    def select(self, state: LayerState) -> Reduction:
        """Keep `state.budget` patches; the loop is over the chosen, for all samples at once."""
        count = required_budget(state, "DivPrune")
        if count >= state.patches:
            return keep_all(state)
        metric = F.normalize(state.keys[:, state.prefix :].float(), dim=-1)  # (b, n, c) -> (b, p, c)
        similarity = metric @ metric.mT
        taken = torch.zeros(metric.shape[:2], dtype=torch.bool, device=metric.device)
        sample = torch.arange(len(metric), device=metric.device)
        closest = self._to_any_other(similarity, state.patch_valid)
        for step in range(count):
            pick = self._unlike(closest, taken, state.patch_valid)
            taken[sample, pick] = True
            row = similarity[sample, pick]  # (b, p): to the patch that was just chosen
            closest = row if step == 0 else torch.maximum(closest, row)
        return keep_masked(state, taken, count)

    @staticmethod
    def _to_any_other(similarity: Tensor, valid: Tensor | None) -> Tensor:
        """Return [B, P]: each patch's largest similarity to another patch; -inf where it has no other."""
        others = ~torch.eye(similarity.shape[-1], dtype=torch.bool, device=similarity.device)
        others = others if valid is None else others & valid[:, None]
        return similarity.masked_fill(~others, -torch.inf).max(-1).values

    @staticmethod
    def _unlike(closest: Tensor, taken: Tensor, valid: Tensor | None) -> Tensor:
        """Return [B]: of the patches that may still be chosen, the one of smallest similarity."""
        barred = taken if valid is None else taken | ~valid
        return closest.masked_fill(barred, torch.inf).argmin(-1)
