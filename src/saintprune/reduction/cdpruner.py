"""CDPruner: a diverse subset conditioned on the instruction, by a determinantal point process (arXiv 2506.10967)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from saintprune.reduction.interface import LayerState, Reducer, Reduction
from saintprune.reduction.survivors import keep_all, keep_masked, required_budget

NOTHING = 1e-6  # a gain at or below it is rounding: what is left lies in the span of what was chosen


@dataclass(frozen=True)
class CDPruner(Reducer):
    """Greedy maximum a posteriori inference of a DPP with the kernel L = diag(q) S diag(q).

    S is the cosine kernel of keys, q each patch's relevance to the instruction, min–max-normalised over the patches
    of a sample to 0..1 (all 1 where they are equal). A step adds the patch that raises log det L of the chosen most,
    found with the incremental Cholesky factor (Chen et al., arXiv 1709.05135): O(P · budget²) in all. Once no patch
    adds anything (the kernel's rank is used up), the most relevant of the others follow. The number comes from the
    stage's schedule; ties go to the earlier patch.

    Relevance here is the cosine of the projected features with the mean embedding of the prompt's text, which every
    model has; no text encoder beside the decoder is asked.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"keys", "relevance"})

    def select(self, state: LayerState) -> Reduction:
        """Keep `state.budget` patches; the loop is over the chosen, for all samples at once."""
        count = required_budget(state, "CDPruner")
        if count >= state.patches:
            return keep_all(state)
        relevance = self._normalised(state.relevance()[:, state.prefix :].float(), state.patch_valid)
        metric = F.normalize(state.keys[:, state.prefix :].float(), dim=-1)
        kernel = (metric @ metric.mT) * relevance[:, :, None] * relevance[:, None]  # (b, p, p)
        barred = torch.zeros_like(relevance, dtype=torch.bool) if state.patch_valid is None else ~state.patch_valid
        gain = kernel.diagonal(dim1=1, dim2=2).clone()
        taken, factor = torch.zeros_like(barred), kernel.new_zeros(*relevance.shape, count)
        sample = torch.arange(len(kernel), device=kernel.device)
        for step in range(count):
            order = torch.where(gain > NOTHING, gain, relevance - 2)  # below every gain, by relevance
            pick = order.masked_fill(taken | barred, -torch.inf).argmax(-1)
            taken[sample, pick] = True
            own = gain[sample, pick][:, None]
            done = factor[..., :step] @ factor[sample, pick, :step, None]  # (b, p, s) @ (b, s, 1)
            column = (kernel[sample, pick] - done[..., 0]) / own.clamp_min(NOTHING).sqrt()
            column = torch.where(own > NOTHING, column, 0)
            factor[..., step] = column
            gain = gain - column.square()
        return keep_masked(state, taken, count)

    @staticmethod
    def _normalised(relevance: Tensor, valid: Tensor | None) -> Tensor:
        """Return [B, P] in 0..1, padding 0."""
        real = torch.ones_like(relevance, dtype=torch.bool) if valid is None else valid
        low = relevance.masked_fill(~real, torch.inf).amin(-1, keepdim=True)
        high = relevance.masked_fill(~real, -torch.inf).amax(-1, keepdim=True)
        scaled = torch.where(high > low, (relevance - low) / (high - low), 1.0)
        return scaled.masked_fill(~real, 0)
