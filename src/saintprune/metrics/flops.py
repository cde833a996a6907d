"""Floating-point operations of a forward pass, counted by torch (2 per multiply-add)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def _cpu_attention_flops(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Torch's own formula, for the CPU kernel of scaled-dot-product attention, which its counter does not know."""
    return sdpa_flop_count(query, key, value)


_EXTRA = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention_flops}


@torch.no_grad()
def count_flops(net: nn.Module, images: Tensor) -> tuple[float, Tensor]:
    """Return the FLOPs per image of one forward pass, selection of tokens included, and the pass's output.

    Matrix products, convolutions and attention count; element-wise operations do not.

    Args:
        net: the network; inside `pruned()` its pruned forward is counted.
        images: [B, C, H, W].
    """
    with FlopCounterMode(display=False, custom_mapping=_EXTRA) as counter:
        output = net(images)
    return counter.get_total_flops() / len(images), output
