"""The change of a classifier is the weighted ridge regression that it is said to be, and none where none helps."""

import math

import pytest
import torch

from saintprune.correction import FLOOR, Correction, fit_correction
from saintprune.errors import SaintpruneError
from saintprune.plan import Plan


def data(number=60, width=5, classes=3, noise=0.3, seed=0):
    """Return features under pruning, the logits of a head on them, and the unpruned ones, of features that differ."""
    random = torch.Generator().manual_seed(seed)
    whole = torch.randn(number, width, generator=random) * torch.tensor([1.0, 5.0, 0.2, 1.0, 1.0])[:width] + 2
    pruned = whole @ (torch.eye(width) * 0.8) + noise * torch.randn(number, width, generator=random) - 1
    head = torch.randn(classes, width, generator=random)
    return pruned, pruned @ head.T, whole @ head.T


@pytest.mark.parametrize("penalty", [0.01, 1.0])
def test_it_is_the_minimum_that_it_is_said_to_be(penalty):
    features, logits, unpruned = (tensor.double() for tensor in data())
    found = fit_correction(features, logits, unpruned, [penalty])
    assert found.penalty == penalty and found.images == 60 and found.weight.dtype == torch.float32
    likely = unpruned.softmax(-1)
    count = 1 - (likely * likely).sum(-1) + FLOOR
    scale = features.std(0)
    weight, bias = found.weight.double().clone().requires_grad_(), found.bias.double().clone().requires_grad_()
    errors = (logits + features @ weight.T + bias - unpruned).square().sum(-1)
    loss = (count / count.sum() * errors).sum() + penalty * (weight * scale).square().sum()
    at_weight, at_bias = torch.autograd.grad(loss, [weight, bias])
    assert at_weight.abs().max() < 1e-5 and at_bias.abs().max() < 1e-5, "a convex loss is least where it is level"


def test_a_shift_is_undone_and_the_answers_come_back():
    features, logits, unpruned = data(noise=0.0)
    found = fit_correction(features, logits, unpruned, [1e-6])
    corrected = logits + features @ found.weight.T + found.bias
    torch.testing.assert_close(corrected, unpruned, atol=1e-2, rtol=0)
    assert (logits.argmax(1) != unpruned.argmax(1)).any() and torch.equal(corrected.argmax(1), unpruned.argmax(1))


def test_the_penalty_is_weak_for_what_can_be_undone_and_infinite_for_what_cannot():
    assert fit_correction(*data(noise=0.0)).penalty == 0.003
    features, logits, _ = data()
    random = torch.Generator().manual_seed(1)
    unrelated = logits + torch.randn(logits.shape, generator=random)
    found = fit_correction(features[:, :2], logits, unrelated - unrelated.mean(0) + logits.mean(0))
    assert found.penalty >= 1
    nothing = fit_correction(features, logits, logits)
    assert math.isinf(nothing.penalty) and not nothing.weight.any() and not nothing.bias.any()


def test_images_that_the_unpruned_network_is_unsure_of_count_most():
    features = torch.ones(20, 1) + torch.arange(20)[:, None] * 1e-9
    logits = torch.zeros(20, 2)
    unpruned = torch.tensor([[0.1, -0.1], [9.0, -9.0]]).repeat(10, 1)  # an unsure one beside a sure one
    found = fit_correction(features, logits, unpruned, [1.0])
    assert 0.1 < found.bias[0] < 0.6, "the plain mean is 4.55"


def test_there_may_be_fewer_images_than_features():
    random = torch.Generator().manual_seed(0)
    features, head = torch.randn(20, 50, generator=random), torch.randn(4, 50, generator=random)
    found = fit_correction(features, features @ head.T, 1.2 * features @ head.T)
    assert found.weight.isfinite().all() and found.bias.isfinite().all()


def test_what_cannot_be():
    features, logits, unpruned = data(number=9)
    with pytest.raises(SaintpruneError, match="on 10 images at least, better on hundreds, but there are 9"):
        fit_correction(features, logits, unpruned)
    with pytest.raises(ValueError, match=r"not \[2, 3\] and \[3\]"):
        Correction(torch.zeros(2, 3), torch.zeros(3), 1.0, 10)


def test_corrections_are_told_apart_and_each_look_has_its_own():
    one, other = (Correction(torch.full((2, 3), value), torch.zeros(2), 0.1, 10) for value in (0.0, 1e-6))
    assert repr(one) != repr(other) and repr(one).startswith("Correction(2x3, penalty=0.1, ")
    plan = Plan(defer=0.2, second=Plan()).corrected([one, other])
    assert plan.correction is one and plan.second.correction is other
    assert plan == plan and plan != Plan(defer=0.2, second=Plan())
