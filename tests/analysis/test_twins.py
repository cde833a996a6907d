"""Twins with shuffled weights keep every value and lose all order."""

import torch
from torch import nn

import families
from saintprune.analysis.twins import shuffled


def test_values_stay_and_their_order_goes():
    net, _, images = families.make("vit")
    before = {name: parameter.clone() for name, parameter in net.named_parameters()}
    twin = shuffled(net, 1)
    for name, parameter in twin.named_parameters():
        assert torch.equal(net.get_parameter(name), before[name]), "the network itself is left alone"
        assert torch.equal(parameter.flatten().sort().values, before[name].flatten().sort().values)
    changed = [name for name, parameter in twin.named_parameters() if not torch.equal(parameter, before[name])]
    assert any("qkv" in name for name in changed) and any("mlp" in name for name in changed)
    assert not torch.allclose(net(images), twin(images))
    assert torch.equal(twin(images), shuffled(net, 1)(images))
    assert not torch.equal(twin(images), shuffled(net, 2)(images))


def test_shared_tensors_stay_shared():
    words = nn.Embedding(5, 3)
    net = nn.Sequential(words, nn.Linear(3, 5, bias=False))
    net[1].weight = words.weight
    twin = shuffled(net, 0)
    assert twin[0].weight is twin[1].weight and not torch.equal(twin[0].weight, words.weight)
