"""The linear probe: it separates what is separable, deals folds fairly, and draws no random numbers."""

from __future__ import annotations

import torch

from saintprune.models import probe


def clouds(count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Two overlapping Gaussian clouds of very different scales, (count, 6) and (count,)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3 // 2  # 2 : 1
    features = torch.randn(count, 6, generator=generator) + 2.0 * labels[:, None]
    return features * torch.tensor([1.0, 10.0, 100.0, 0.1, 1.0, 1.0]) + 50.0, labels


def test_the_fit_is_the_minimum_of_its_objective() -> None:
    features, labels = clouds()
    l2 = 0.03
    fitted = probe.fit(features, labels, l2)
    scale = features.double().std(dim=0)
    weight = (fitted.weight * scale).requires_grad_()  # back to standardised features
    bias = (fitted.bias + fitted.weight @ features.double().mean(dim=0)).requires_grad_()
    inputs = (features.double() - features.double().mean(dim=0)) / scale
    loss = torch.nn.functional.cross_entropy(inputs @ weight.T + bias, labels) + l2 / 2 * weight.square().sum()
    gradients = torch.autograd.grad(loss, (weight, bias))
    assert max(gradient.abs().max().item() for gradient in gradients) < 1e-6
    assert fitted.accuracy(features, labels) > 0.9


def test_folds_are_stratified() -> None:
    labels = torch.tensor([0] * 50 + [1] * 10)
    fold = probe.fold_of(labels)
    for held_out in range(probe.FOLDS):
        assert (labels[fold == held_out] == 1).sum() == 2


def test_the_choice_is_repeatable_and_leaves_the_global_state() -> None:
    features, labels = clouds()
    before = torch.get_rng_state()
    first, second = (probe.choose_l2(features, labels, grid=(1e-3, 1e-1)) for _ in range(2))
    assert first == second and first[0] in (1e-3, 1e-1)
    assert torch.equal(before, torch.get_rng_state())
