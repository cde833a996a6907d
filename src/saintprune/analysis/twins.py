"""Twins of a network that have learnt nothing: what its curves look like by its architecture and scales alone."""

from __future__ import annotations

import copy

import torch
from torch import nn


def shuffled(net: nn.Module, seed: int) -> nn.Module:
    """Return a copy of a network in which the weights of each tensor are in a random order.

    Every tensor keeps the values that it has, so that depth, widths and scales (LayerScale, norms, embeddings) are
    those of the trained network; fresh weights are much smaller, and with a LayerScale of 1e-5, as DINOv2 starts with,
    such a network hardly changes its tokens at all. Shared tensors stay shared.

    Args:
        net: is left as it is.
        seed: of the order.
    """
    twin = copy.deepcopy(net)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in twin.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return twin
