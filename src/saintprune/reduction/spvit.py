"""SPViT: heads vote on which patches matter, the others become one package token (Kong et al., arXiv 2112.13890)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from saintprune.reduction.counts import at_most, real_patches
from saintprune.reduction.interface import LayerState, Reducer, Reduction
from saintprune.reduction.merging import fused
from saintprune.reduction.survivors import keep_all


@dataclass(frozen=True)
class SPViT(Reducer):
    """Each head scores the patches, heads weigh by their importance, and patches below a cut form a package token.

    In each head the scores of an image's patches are its attention from the query row, divided by their sum. An image's
    score is the mean over heads, weighted by head importance. Patches below the cut become one token, their mean
    weighted by the scores, which stands where the best of them stood.

    Deviations: the paper trains a selector in each stage, which gives scores and head importance from the tokens'
    features; this is its training-free form and loads no selector. A head's importance is how sharply it chooses, 1
    minus the entropy of its scores over the largest possible; where the package goes is ours.

    Attributes:
        cut: score below which a patch is packaged, as a multiple of the mean score, > 0; the count adapts per image.
            Under a schedule the best `n - 1` patches and the package are left instead.
        heads: how heads weigh: "sharpness", or "equal", the same for all.
    """

    cut: float = 0.5
    heads: Literal["sharpness", "equal"] = "sharpness"

    reads: ClassVar[frozenset[str]] = frozenset({"importance"})
    merges: ClassVar[bool] = True
    decides: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the values."""
        if self.cut <= 0:
            raise ValueError(f"cut is {self.cut}, but must be above 0")
        if self.heads not in ("sharpness", "equal"):
            raise ValueError(f"heads is {self.heads!r}, but must be 'sharpness' or 'equal'")

    def select(self, state: LayerState) -> Reduction:
        """Leave the patches above the cut and the package, or `state.budget` patches."""
        if state.patches < 2 or (state.budget is not None and state.budget >= state.patches):
            return keep_all(state)
        scores, patches = self._scores(state), real_patches(state)
        if state.budget is not None:
            return fused(state, scores, at_most(state.budget, patches))
        mean = 1 / (patches[:, None] if isinstance(patches, Tensor) else patches)
        left = (scores >= self.cut * mean).sum(1) + 1
        return fused(state, scores, left.clamp(max=patches))

    def _scores(self, state: LayerState) -> Tensor:
        """Return [B, P]: scores of sum 1; those of padding are 0."""
        rows = state.head_importance()[..., state.prefix :].float()  # (b, h, p)
        if state.patch_valid is not None:
            rows = rows.masked_fill(~state.patch_valid[:, None], 0)
        rows = F.normalize(rows, p=1, dim=-1)
        if self.heads == "equal":
            return rows.mean(1)
        patches = torch.as_tensor(real_patches(state), device=rows.device).clamp_min(2)
        entropy = -torch.xlogy(rows, rows).sum(-1)  # (b, h), at most the logarithm of the number of patches
        sharpness = (1 - entropy / patches.float().log().view(-1, 1)).clamp_min(1e-6)
        return (rows * F.normalize(sharpness, p=1, dim=-1)[..., None]).sum(1)
