"""SAINT's budget rule: thin the full similarity graph step by step down to a fixed number of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from saintprune.reduction.interface import LayerState, Reducer, Reduction
from saintprune.reduction.survivors import keep_all, keep_masked


@dataclass(frozen=True)
class SaintBudget(Reducer):
    """The "iterative full graph" rule that the released program runs in one late layer of CLIP.

    With all patches in one cosine graph, repeat until `keep - prefix` are left: a token's score is the sum of its
    similarities to the survivors; drop the `min(n - target, n // divisor)` of highest score.

    Attributes:
        keep: tokens to leave, special ones included: a number (int; the released program keeps 376 of 577) or a share
            of the layer's tokens (float, 0..1); at least one patch is left.
        divisor: a step drops at most one token in `divisor`, >= 1 (and at least one token).
        quirk_divisor: let each step's count be the next step's divisor, as the released program does.
    """

    keep: int | float = 376
    divisor: int = 8
    quirk_divisor: bool = False

    decides: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the values."""
        if self.keep <= 0 or (isinstance(self.keep, float) and self.keep > 1):
            raise ValueError(f"keep is {self.keep}, but must be a number of tokens (int > 0) or a share (float, 0..1)")
        if self.divisor < 1:
            raise ValueError(f"divisor is {self.divisor}, but must be at least 1")

    def select(self, state: LayerState) -> Reduction:
        """Thin the graph; the steps are the same for all samples, so that a batch needs no loop over them."""
        target = max(1, self._keep(state) if state.budget is None else state.budget)
        if target >= state.patches:
            return keep_all(state)
        metric = F.normalize(state.keys[:, state.prefix :].float(), dim=-1)
        similarity = metric @ metric.mT  # (b, p, p)
        alive = torch.ones(metric.shape[:2], dtype=torch.bool, device=metric.device)
        score = similarity.sum(-1)
        if state.patch_valid is not None:  # padding goes first: its similarities are 0, its score is the largest
            padding = ~state.patch_valid
            score = (similarity @ state.patch_valid[..., None].float())[..., 0].masked_fill(padding, torch.inf)
        for step in self._steps(state.patches, target):
            dropped = score.masked_fill(~alive, -torch.inf).topk(step, dim=1).indices  # (b, step)
            alive.scatter_(1, dropped, False)
            score = score - self._lost(similarity, dropped, state)
        return keep_masked(state, alive, target)

    def _keep(self, state: LayerState) -> int:
        """Return the patches to leave."""
        share = isinstance(self.keep, float)
        return (round(self.keep * (state.patches + state.prefix)) if share else int(self.keep)) - state.prefix

    @staticmethod
    def _lost(similarity: torch.Tensor, dropped: torch.Tensor, state: LayerState) -> torch.Tensor:
        """Return [B, P]: the similarity of each token to the tokens that were just dropped."""
        rows = similarity.gather(1, dropped[..., None].expand(-1, -1, similarity.shape[-1]))  # (b, step, p)
        if state.patch_valid is not None:
            rows = rows * state.patch_valid.gather(1, dropped)[..., None]
        return rows.sum(1)

    def _steps(self, patches: int, target: int) -> list[int]:
        """Return how many tokens each step drops."""
        steps, divisor = [], self.divisor
        while patches > target:
            step = max(1, min(patches - target, patches // divisor))
            steps.append(step)
            patches -= step
            divisor = step if self.quirk_divisor else divisor
        return steps
