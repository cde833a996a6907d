"""Rows of tokens: taking some of them, and adding up those that join the same slot."""

from __future__ import annotations

import torch
from torch import Tensor

from saintprune import kernels

_HALVES = (torch.float16, torch.bfloat16)


def taken(keep: Tensor, *states: Tensor) -> list[Tensor]:
    """Return of states [B or 1, M, C] the rows that are left, [B, K, C] each, given their numbers [B, K]."""
    batch, length = len(keep), states[0].shape[1]
    shared = own = keep.flatten()  # rows among those of one sample, and among those of all
    if batch > 1:
        own = (keep + torch.arange(0, batch * length, length, device=keep.device)[:, None]).flatten()
    # index_select copies whole rows: several times faster on CPUs than torch.gather with an expanded index
    return [
        state.flatten(0, 1).index_select(0, shared if len(state) == 1 else own).view(batch, -1, state.shape[-1])
        for state in states
    ]


def summed(x: Tensor, slot: Tensor, slots: int, weights: Tensor | None = None) -> Tensor:
    """Return the sums of the tokens that join each slot.

    Args:
        x: [B, N, D].
        slot: [B, N] int64, of each token: 0..slots-1, or `slots` for none.
        slots: number of slots M.
        weights: [B, N] float32, of the tokens; None means 1 each.

    Returns:
        [B, M, D]: in float32 where there are weights, but of the dtype of `x` where that has 16 bits on a GPU.
    """
    batch, tokens, width = x.shape
    if weights is not None:
        if kernels.on_gpu(x) and x.dtype in _HALVES and tokens <= 4 * width:
            return _product(x, slot, slots, weights)
        x = x.float() * weights[..., None]
    if width == 1:
        return x.new_zeros(batch, slots + 1).scatter_add_(1, slot, x[..., 0])[:, :slots, None]
    # one spare slot a sample takes what joins none; rows are added whole, which is what CPUs do fast
    flat = slot + torch.arange(batch, device=x.device)[:, None] * (slots + 1)
    out = x.new_zeros(batch * (slots + 1), width).index_add_(0, flat.flatten(), x.flatten(0, 1))
    return out.view(batch, slots + 1, width)[:, :slots]


def _product(x: Tensor, slot: Tensor, slots: int, weights: Tensor) -> Tensor:
    """Return weighted sums as a product of matrices: tensor cores are faster than adding rows, and read `x` once."""
    batch, tokens, _ = x.shape
    matrix = x.new_zeros(batch, slots + 1, -(-tokens // 8) * 8)[..., :tokens]  # rows begin where the cores can read
    matrix.scatter_(1, slot[:, None], weights[:, None].to(x.dtype))
    return matrix[:, :slots] @ x
