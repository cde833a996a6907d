"""Linear probe: multinomial logistic regression on frozen features, in float64 and without randomness.

``min_W,b  mean_i CE(W z_i + b, y_i) + l2 / 2 * |W|^2``, where z are the standardised features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

FOLDS = 5
L2_GRID = tuple(10.0 ** (exponent / 2) for exponent in range(-10, 1))  # 1e-5 ... 1, two per decade


@dataclass(frozen=True)
class Probe:
    """A linear classifier on raw features: ``logits = features @ weight.T + bias``.

    Attributes:
        weight: (classes, D) float64, with the standardisation folded in.
        bias: (classes,) float64.
    """

    weight: Tensor
    bias: Tensor

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Return the share of rows of `features` (N, D) whose highest logit is at `labels` (N,)."""
        return (self.logits(features).argmax(dim=1) == labels).double().mean().item()

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (N, classes) float64 of `features` (N, D)."""
        return features.double() @ self.weight.T + self.bias


def fit(features: Tensor, labels: Tensor, l2: float, steps: int = 500) -> Probe:
    """Fit by full-batch LBFGS.

    Args:
        features: (N, D).
        labels: (N,) long, 0 .. classes-1.
        l2: Strength of the penalty on the weights of standardised features.
        steps: Most iterations.
    """
    raw = features.double()
    mean, scale = raw.mean(dim=0), raw.std(dim=0).clamp_min(1e-12)
    inputs = (raw - mean) / scale
    classes = int(labels.max()) + 1
    weight = torch.zeros(classes, raw.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=steps,
        tolerance_grad=1e-8,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = cross_entropy(inputs @ weight.T + bias, labels) + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    folded = (weight / scale).detach()  # W ((x - mean) / scale) + b = (W / scale) x + (b - (W / scale) mean)
    return Probe(weight=folded, bias=(bias - folded @ mean).detach())


def fold_of(labels: Tensor, folds: int = FOLDS) -> Tensor:
    """Return each sample's fold (N,): every label's samples, in their order, are dealt out in turn."""
    fold = torch.empty_like(labels)
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        fold[rows] = torch.arange(len(rows)) % folds
    return fold


def cross_validate(features: Tensor, labels: Tensor, l2: float, folds: int = FOLDS) -> float:
    """Return the mean held-out accuracy over stratified folds."""
    fitted = cross_fits(features, labels, l2, folds)
    return sum(one.accuracy(features[outside], labels[outside]) for one, outside in fitted) / folds


def cross_fits(features: Tensor, labels: Tensor, l2: float, folds: int = FOLDS) -> Iterator[tuple[Probe, Tensor]]:
    """Yield for each stratified fold the probe fitted on the others, and which samples it has not seen, [N] bool."""
    fold = fold_of(labels, folds)
    for held_out in range(folds):
        inside, outside = fold != held_out, fold == held_out
        yield fit(features[inside], labels[inside], l2), outside


def choose_l2(features: Tensor, labels: Tensor, grid: Sequence[float] = L2_GRID) -> tuple[float, dict[float, float]]:
    """Return the penalty with the best cross-validated accuracy (the strongest of equals), and every score."""
    scores = {l2: cross_validate(features, labels, l2) for l2 in grid}
    return max(grid, key=lambda l2: (scores[l2], l2)), scores
