"""What pruning does to the features that a linear classifier reads, and the change of the classifier that answers it.

The classifier's change is fitted so that its logits on features of the pruned network come near to those of the
unpruned one: least squares with a penalty, in closed form, on images without labels. The images that the unpruned
network is unsure of count most, as cross-entropy would have it, and the penalty is the one that does best on images
left out. Derivation and measurements: docs/correction.md.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saintprune.errors import SaintpruneError

# of the weights on standardised features; an infinite one changes nothing
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, math.inf)
FOLDS = 5
FLOOR = 0.02  # added to how unsure the unpruned network is, so that images which it is sure of count a little


@dataclass(frozen=True, eq=False)
class Correction:
    """A change of a linear classifier: of features x [B, D] its logits become ``logits + x @ weight.T + bias``.

    Attributes:
        weight: [classes, D] float32.
        bias: [classes] float32.
        penalty: with which it was fitted; inf where no change did better on images left out.
        images: on how many it was fitted.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    images: int

    def __post_init__(self) -> None:
        """Check the shapes."""
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[:1]:
            raise ValueError(
                f"a correction has weights [classes, D] and a bias [classes], not {list(self.weight.shape)} and"
                f" {list(self.bias.shape)}"
            )

    def __repr__(self) -> str:
        """Return the shape, the penalty and a hash of the numbers, by which two corrections are told apart."""
        numbers = torch.cat([self.weight.flatten(), self.bias]).cpu().float().contiguous()
        digest = hashlib.sha256(numbers.numpy().tobytes()).hexdigest()[:8]
        return f"Correction({'x'.join(map(str, self.weight.shape))}, penalty={self.penalty:g}, {digest})"


@torch.inference_mode(False)  # what is fitted serves passes with gradients as well
@torch.no_grad()
def fit_correction(
    features: Tensor, logits: Tensor, unpruned: Tensor, penalties: Sequence[float] = PENALTIES
) -> Correction:
    """Fit the change of a linear classifier by weighted ridge regression.

    Args:
        features: [N, D], under pruning.
        logits: [N, classes], what the classifier makes of them.
        unpruned: [N, classes], logits of the unpruned network.
        penalties: to choose from, by cross-validation over `FOLDS` folds: the mean cross-entropy between the
            probabilities of the unpruned network and the corrected ones.

    Raises:
        SaintpruneError: fewer than two images for each fold.
    """
    if len(features) < 2 * FOLDS:
        raise SaintpruneError(
            f"a correction is fitted on {2 * FOLDS} images at least, better on hundreds, but there are {len(features)}"
        )
    x, before, wanted = (tensor.cpu().double() for tensor in (features, logits, unpruned))
    likely = wanted.softmax(-1)
    count = 1 - likely.square().sum(-1) + FLOOR  # Gini impurity: the curvature of cross-entropy, summed over classes
    fold = torch.arange(len(x)) % FOLDS
    losses = dict.fromkeys(penalties, 0.0)
    for left_out in range(FOLDS):
        seen, kept = fold != left_out, fold == left_out
        ridge = _Ridge(x[seen], (wanted - before)[seen], count[seen])
        for penalty in penalties:
            weight, bias = ridge.solve(penalty)
            corrected = before[kept] + x[kept] @ weight.T + bias
            losses[penalty] -= (likely[kept] * corrected.log_softmax(-1)).sum().item()
    best = min(penalties, key=lambda penalty: (losses[penalty], -penalty))
    weight, bias = _Ridge(x, wanted - before, count).solve(best)
    return Correction(weight.float(), bias.float(), best, len(x))


class _Ridge:
    """Weighted least squares from features x [N, D] to y [N, K], decomposed once for all penalties."""

    def __init__(self, x: Tensor, y: Tensor, count: Tensor) -> None:
        share = (count / count.sum())[:, None]
        self.mean, self.scale = x.mean(0), x.std(0).clamp_min(1e-12)
        z = (x - self.mean) / self.scale
        self.centre, self.offset = (share * z).sum(0), (share * y).sum(0)
        z, y = z - self.centre, y - self.offset
        self.values, self.vectors = torch.linalg.eigh(z.T @ (share * z))
        self.along = self.vectors.T @ (z.T @ (share * y))

    def solve(self, penalty: float) -> tuple[Tensor, Tensor]:
        """Return weights [K, D] and bias [K] on the raw features; an infinite penalty changes nothing."""
        if math.isinf(penalty):
            return torch.zeros_like(self.along.T), torch.zeros_like(self.offset)
        fitted = self.vectors @ (self.along / (self.values.clamp_min(0) + penalty)[:, None])
        weight = (fitted / self.scale[:, None]).T
        return weight, self.offset - fitted.T @ self.centre - weight @ self.mean
