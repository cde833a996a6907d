"""Fused kernels for NVIDIA GPUs, in Triton: each does in one pass over memory what plain torch does in several.

Every function has its plain counterpart beside its caller, which serves CPUs, gradients, and machines without Triton
(it comes with torch's CUDA builds) or a C compiler, which it needs; `usable` tells which of the two to take. What is
computed is float32, whatever type is read and written.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

OLDEST = (8, 0)  # compute capability: Ampere, the first to know bfloat16
WIDEST = 1 << 14  # channels that one program holds at once
ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    F.gelu,
    partial(F.gelu, approximate="tanh"),
    lambda x: x * torch.sigmoid(1.702 * x),  # QuickGELU, as CLIP has it
    F.silu,
    F.relu,
)
"""Those that `widened` knows, by their number."""


_plain: ContextVar[bool] = ContextVar("plain", default=False)


@contextmanager
def plain() -> Iterator[None]:
    """Take the plain path on GPUs too, inside a `with` block: torch counts no FLOPs of kernels that are not its own."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def on_gpu(x: Tensor) -> bool:
    """Return whether what is made for GPUs, in whatever way, is to be taken for a tensor."""
    return x.is_cuda and not _plain.get()


def usable(x: Tensor) -> bool:
    """Return whether a tensor can go through these kernels, which know no gradients."""
    if not on_gpu(x) or x.dtype == torch.float64 or (torch.is_grad_enabled() and x.requires_grad):
        return False
    return not torch.compiler.is_compiling() and _built(x.device)


def activation_number(activation: Callable[[Tensor], Tensor]) -> int | None:
    """Return which of `ACTIVATIONS` a function without weights is, found by trying it; None where it is another."""
    x = torch.linspace(-6, 6, 49, dtype=torch.float32)
    with torch.no_grad():
        found = activation(x.clone())
        for number, known in enumerate(ACTIVATIONS):
            if found.shape == x.shape and torch.allclose(found, known(x), rtol=0, atol=1e-6):
                return number
    return None


def widened(hidden: Tensor, among: Tensor, gain: Tensor, activation: int) -> Tensor:
    """Return the mean of an activation at one standard deviation to both sides.

    Args:
        hidden: [R, H], means.
        among: [R] float32; the standard deviation of a unit is this times its gain.
        gain: [H] float32.
        activation: a number of `ACTIVATIONS`.

    Returns:
        [R, H].
    """
    hidden, (rows, width) = hidden.contiguous(), hidden.shape
    out, block = torch.empty_like(hidden), 1024
    with torch.cuda.device_of(out):
        _programs().widen[(rows, _parts(width, block))](hidden, among, gain, out, width, activation, block)
    return out


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, length: Tensor) -> Tensor:
    """Return the layer norm of each row, made `length` times as long before the bias is added.

    Args:
        x: [..., D], D at most `WIDEST`.
        weight: [D].
        bias: [D].
        eps: added to the variance.
        length: float32, one number for each row.
    """
    x, width = x.contiguous(), x.shape[-1]
    out = torch.empty_like(x)
    weight = x.new_ones(width) if weight is None else weight
    bias = x.new_zeros(width) if bias is None else bias
    with torch.cuda.device_of(out):
        _programs().norm[(x.numel() // width,)](x, weight, bias, length.contiguous(), out, width, eps, _block(width))
    return out


def variance(x: Tensor) -> Tensor:
    """Return the variance of each row, as layer norms take it: [..., D] -> [..., 1] float32, D at most `WIDEST`."""
    x, width = x.contiguous(), x.shape[-1]
    out = x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
    with torch.cuda.device_of(out):
        _programs().variance[(out.numel(),)](x, out, width, _block(width))
    return out


def unit_keys(keys: Tensor) -> Tensor:
    """Return keys [B, H, P, C] as [B, P, H * C], each head's of length 1 / sqrt(H)."""
    keys = keys if keys.stride(-1) == 1 else keys.contiguous()
    batch, heads, patches, width = keys.shape
    out = keys.new_empty(batch, patches, heads * width)
    with torch.cuda.device_of(out):
        _programs().unit[(patches, batch)](
            keys, out, *keys.stride()[:3], patches, heads, width, _block(heads), _block(width)
        )
    return out


def products(query: Tensor, keys: Tensor) -> Tensor:
    """Return the dot products of queries [B, H, 1, C] with keys [B, H, N, C]: [B, H, N] float32."""
    keys = keys if keys.stride(-1) == 1 else keys.contiguous()
    query = query.expand(keys.shape[0], -1, -1, -1).contiguous()
    batch, heads, tokens, width = keys.shape
    out = keys.new_empty(batch, heads, tokens, dtype=torch.float32)
    blocks = _block(heads), _block(width)
    with torch.cuda.device_of(out):
        _programs().products[(tokens, batch)](query, keys, out, *keys.stride()[:3], tokens, heads, width, *blocks)
    return out


def least_damage(keys: Tensor, inverse: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return what the cheapest merge of each even place with an odd one costs, and the number of that odd place.

    The cost is (1 - cosine) / (inverse of one + inverse of the other); ties go to the earlier.

    Args:
        keys: [B, G, C].
        inverse: [B, G] float32.
        valid: [B, G] bool, False marks padding, which costs infinitely much; None means that there is none.

    Returns:
        Cost, float32, and number, int64, both [B, ceil(G / 2)].
    """
    keys, (batch, groups, width) = keys.contiguous(), keys.shape
    sources = (groups + 1) // 2
    best = keys.new_empty(batch, sources, dtype=torch.float32)
    partner = keys.new_empty(batch, sources, dtype=torch.int64)
    real = best if valid is None else valid.contiguous()  # never read where there is no padding
    rows = 64 if sources > 32 else 32
    grid = _parts(sources, rows), batch
    with torch.cuda.device_of(best):
        _programs().links[grid](
            keys, inverse.contiguous(), real, best, partner, groups, width, valid is not None, rows, 64, 64
        )
    return best, partner


@cache
def _built(device: torch.device) -> bool:
    """Return whether kernels can be built for a device; warn once where that fails."""
    if torch.cuda.get_device_capability(device) < OLDEST:
        return False
    try:
        variance(torch.ones(1, 2, dtype=torch.float32, device=device))
    except Exception as error:  # of a compiler, a driver or a cache folder: any of them is reason enough to do without
        warnings.warn(f"fused kernels cannot be built, pruning is slower without: {error}", stacklevel=2)
        return False
    return True


@cache
def _programs() -> Any:
    """Return the module of the programs; importing Triton takes its time, and CPUs do without."""
    return import_module("saintprune.kernels.programs")


def _parts(width: int, block: int) -> int:
    return -(-width // block)


def _block(width: int) -> int:
    return 1 << (width - 1).bit_length()
