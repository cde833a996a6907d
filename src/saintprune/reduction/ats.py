"""ATS: sample patches from the distribution of their attention (Fayyaz et al., arXiv 2111.15667)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from saintprune.reduction.counts import Count, at_most, real_patches, share_of
from saintprune.reduction.interface import LayerState, Reducer, Reduction
from saintprune.reduction.survivors import keep_all, keep_masked, keep_top


@dataclass(frozen=True)
class ATS(Reducer):
    """Inverse-transform sampling without chance: `K` evenly spaced quantiles of the patches' scores pick patches.

    In each head the score of a patch is its attention from the query row times the norm of its value, divided by the
    sum over patches; heads are averaged. Quantile `(i + 1/2) / K` of the scores' running sum, patches in their order,
    falls on some patch; one on which several fall is kept once, so that an image whose attention is concentrated keeps
    fewer patches.

    Under a schedule every image keeps the same number `n`: scores are multiplied by the least number at which the sum
    of `min(1, score)` is `n`, so that each of `n` quantiles falls on a patch of its own. Where the count adapts, a
    batch is padded.

    Attributes:
        samples: K, a number (int, >= 1) or a share of a layer's patches (float, above 0, at most 1).
    """

    samples: int | float = 1.0

    reads: ClassVar[frozenset[str]] = frozenset({"importance", "values"})
    decides: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the values."""
        if self.samples <= 0 or (isinstance(self.samples, float) and self.samples > 1):
            raise ValueError(
                f"samples is {self.samples}, but must be a number (int, >= 1) or a share of the patches (float, above"
                " 0, at most 1)"
            )

    def select(self, state: LayerState) -> Reduction:
        """Keep the patches on which quantiles fall, or `state.budget` patches."""
        patches, budget = real_patches(state), state.budget
        if state.patches < 2 or (budget is not None and budget >= state.patches):
            return keep_all(state)
        scores = self._scores(state)
        if budget is None:
            return keep_masked(state, _sampled(scores * _column(self._samples(patches))))
        taken = _sampled(_capped(scores, at_most(budget, patches)))
        return keep_top(state, scores + 2.0 * taken, budget)  # rounding may let two quantiles fall on one patch

    def _samples(self, patches: Count) -> Count:
        """Return K: one number for the batch, or [B]."""
        return share_of(patches, self.samples) if isinstance(self.samples, float) else self.samples

    @staticmethod
    def _scores(state: LayerState) -> Tensor:
        """Return [B, P]: the scores, of sum 1; those of patches are never 0, those of padding are."""
        scores = (state.head_importance().float() * state.value_norms())[:, :, state.prefix :]  # (b, h, p)
        if state.patch_valid is not None:
            scores = scores.masked_fill(~state.patch_valid[:, None], 0)
        scores = F.normalize(scores, p=1, dim=-1).mean(1).clamp_min(1e-9)
        if state.patch_valid is not None:
            scores = scores.masked_fill(~state.patch_valid, 0)
        return F.normalize(scores, p=1, dim=-1)


def _column(count: Count) -> Count:
    return count[:, None] if isinstance(count, Tensor) else count


def _sampled(mass: Tensor) -> Tensor:
    """Return [B, P] bool: where the running sum of [B, P] passes 1/2, 3/2, 5/2, …."""
    passed = (mass.cumsum(1) + 0.5).floor()
    return passed.diff(dim=1, prepend=passed.new_zeros(len(passed), 1)) > 0


def _capped(scores: Tensor, count: Count) -> Tensor:
    """Return [B, P]: `min(1, scale * scores)`, with the scale of each row at which they sum up to `count`.

    With the largest `c` at 1, the scale is `(count - c)` over the sum of the others; `c` is the least number at which
    none of those exceeds 1.
    """
    ranked = scores.sort(dim=1, descending=True).values
    others = ranked.flip(1).cumsum(1).flip(1)  # the sum of the scores from a rank on
    rank = torch.arange(scores.shape[1], device=scores.device)
    scale = (_column(count) - rank) / others.clamp_min(1e-12)  # (b, p)
    fits = (scale * ranked <= 1 + 1e-6).to(torch.uint8)
    return (scores * scale.gather(1, fits.argmax(1, keepdim=True))).clamp(0, 1)
