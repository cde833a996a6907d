"""Floating-point operations of a forward pass, counted by torch (2 per multiply-add)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from saintprune import kernels


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Of scaled-dot-product attention: scores and their sum over values, each query head with all keys of its group.

    Args:
        query: shape [B, H, T, D].
        key: shape [B, G, S, D]; a group of heads shares keys and values where G < H.
        value: shape [B, G, S, V].
        args: of the kernel.
        out_shape: of its output.
        kwargs: of the kernel.
    """
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[2] * (width + value[3])


Result = TypeVar("Result")
# torch's counter does not know the CPU's kernel, and in older versions (2.11) stops at attention in groups
_EXTRA = {
    kernel: _attention_flops
    for kernel in (
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
        torch.ops.aten._scaled_dot_product_flash_attention,
        torch.ops.aten._scaled_dot_product_efficient_attention,
        torch.ops.aten._scaled_dot_product_cudnn_attention,
    )
}


@torch.no_grad()
def flops_of(work: Callable[[], Result]) -> tuple[int, Result]:
    """Do some work and return its FLOPs and its result.

    Matrix products, convolutions and attention count (causal attention as if it were full); element-wise operations do
    not. Selecting and merging count as they are done on a CPU, so that a pass has the same FLOPs on every device.
    """
    with kernels.plain(), FlopCounterMode(display=False, custom_mapping=_EXTRA) as counter:
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
