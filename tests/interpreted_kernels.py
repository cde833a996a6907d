"""The fused kernels against plain torch, by Triton's interpreter or on a GPU: test_kernels.py runs this."""

import os

import pytest
import torch
import torch.nn.functional as F

from saintprune import kernels

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize("number", range(len(kernels.ACTIVATIONS)))
def test_widened(number):
    hidden, among, gain = 2 * noise(5, 1300), noise(5, seed=1).abs(), noise(1300, seed=2).abs()
    among[2] = 0
    function = kernels.ACTIVATIONS[number]
    shift = among[:, None] * gain
    expected = (function(hidden + shift) + function(hidden - shift)) / 2
    torch.testing.assert_close(kernels.widened(hidden, among, gain, number), expected, atol=2e-6, rtol=1e-5)


def test_layer_norm():
    x, weight, bias, length = noise(2, 3, 100), noise(100, seed=1), noise(100, seed=2), noise(2, 3, 1, seed=3).abs()
    expected = F.layer_norm(x, (100,), eps=1e-5) * length
    torch.testing.assert_close(kernels.layer_norm(x, weight, bias, 1e-5, length), expected * weight + bias)
    torch.testing.assert_close(kernels.layer_norm(x, None, None, 1e-5, length), expected)


def test_variance():
    x = noise(2, 3, 100) + 5
    torch.testing.assert_close(kernels.variance(x), x.var(-1, keepdim=True, unbiased=False))


def test_unit_keys_and_products():
    keys = noise(2, 9, 3, 3, 20).permute(2, 0, 3, 1, 4)[1]  # as timm cuts them from one projection
    keys[1, 2, 4] = 0
    heads = F.normalize(keys, dim=-1, eps=1e-9) / 3**0.5
    torch.testing.assert_close(kernels.unit_keys(keys[:, :, 1:]), heads[:, :, 1:].transpose(1, 2).flatten(2))
    query = noise(2, 3, 1, 20, seed=1)
    torch.testing.assert_close(kernels.products(query, keys), (query * keys).sum(-1))


@pytest.mark.parametrize("groups", [2, 7, 150])
@pytest.mark.parametrize("padded", [False, True])
def test_least_damage(groups, padded):
    keys, inverse = noise(2, groups, 70), 1 + noise(2, groups, seed=1).abs()
    valid = torch.ones(2, groups, dtype=torch.bool, device=DEVICE)
    valid[1, groups - groups // 3 :] = not padded
    unit = F.normalize(keys, dim=-1)
    cost = (1 - unit[:, ::2] @ unit[:, 1::2].mT) / (inverse[:, ::2, None] + inverse[:, None, 1::2])
    cost = cost.masked_fill(~(valid[:, ::2, None] & valid[:, None, 1::2]), torch.inf)
    best, partner = kernels.least_damage(keys, inverse, valid if padded else None)
    torch.testing.assert_close(best, cost.min(-1).values)
    there = best.isfinite()
    assert torch.equal(partner[there], cost.min(-1).indices[there]) and (partner < groups // 2).all()
