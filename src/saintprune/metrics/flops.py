"""Floating-point operations of a forward pass, counted by torch (2 per multiply-add)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def _cpu_attention_flops(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Torch's own formula, for the CPU kernel of scaled-dot-product attention, which its counter does not know."""
    return sdpa_flop_count(query, key, value)


Result = TypeVar("Result")
_EXTRA = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention_flops}


@torch.no_grad()
def flops_of(work: Callable[[], Result]) -> tuple[int, Result]:
    """Do some work and return its FLOPs and its result.

    Matrix products, convolutions and attention count (causal attention as if it were full); element-wise operations do
    not.
    """
    with FlopCounterMode(display=False, custom_mapping=_EXTRA) as counter:
        result = work()
    return counter.get_total_flops(), result


def count_flops(net: nn.Module, images: Tensor) -> tuple[float, Tensor]:
    """Return the FLOPs per image of one forward pass, selection of tokens included, and the pass's output.

    Args:
        net: the network; inside `pruned()` its pruned forward is counted.
        images: [B, C, H, W].
    """
    flops, output = flops_of(lambda: net(images))
    return flops / len(images), output
