"""Weights that can be read as they stand, which those of quantised layers cannot."""

from __future__ import annotations

from torch import nn


def plain_weight(layer: nn.Linear) -> bool:
    """Return whether a linear layer's weight is [out, in] of 16-bit floats at least; integers, packed or scaled 8-bit
    weights mean other numbers than they are.
    """
    weight = layer.weight
    shape = (layer.out_features, layer.in_features)
    return weight.is_floating_point() and weight.element_size() >= 2 and weight.shape == shape
