"""timm's `VisionTransformer`: ViT, DeiT (also distilled), DeiT-3, CLIP, SigLIP, DINOv2 (also registers), MAE."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from timm.layers.attention_pool import AttentionPoolLatent
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from torch import Tensor, nn

from saintprune.adapters.base import ViTAdapter
from saintprune.adapters.run import TokenStream
from saintprune.errors import SaintpruneError


class TimmViT(ViTAdapter):
    """Prunes a timm `VisionTransformer`; see `ViTAdapter`.

    Raises:
        SaintpruneError: the network or its blocks are of a kind that is not supported; the message names what is.
    """

    net: VisionTransformer

    @property
    def blocks(self) -> list[Any]:
        """The transformer blocks, in order."""
        return list(self.net.blocks)

    @property
    def prefix(self) -> int:
        """Class, distillation and register tokens."""
        return self.net.num_prefix_tokens

    def _check_supported(self) -> None:
        check_network(self.net, VisionTransformer, (Block, ResPostBlock), "TimmViT")

    def _attention_half(self, block: Any, x: Tensor, **kwargs: Any) -> Tensor:
        if isinstance(block, ResPostBlock):
            return x + block.drop_path1(block.norm1(block.attn(x, **kwargs)))
        return x + block.drop_path1(block.ls1(block.attn(block.norm1(x), **kwargs)))

    def _mlp_half(self, block: Any, x: Tensor) -> Tensor:
        if isinstance(block, ResPostBlock):
            return x + block.drop_path2(block.norm2(block.mlp(x)))
        return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))

    def _attention_modules(self, block: Any) -> tuple[nn.Module, nn.Module, float]:
        return block.attn.q_norm, block.attn.k_norm, block.attn.scale

    def _grid(self, patches: int) -> tuple[int, int] | None:
        return patch_grid(self.net, patches)

    def _pool(self, stream: TokenStream) -> Callable[..., Tensor] | None:
        weights = stream.pool_weights(self.by_size)
        if weights is None:
            return None
        include_prefix = getattr(self.net, "pool_include_prefix", False)
        return lambda x, pool_type: weighted_pool(self.net, x, pool_type, weights, include_prefix)


def check_network(net: Any, network: type, blocks: tuple[type, ...], adapter: str) -> None:
    """Raise `SaintpruneError` unless `net` is a `network` made of `blocks` with observable attention."""
    if not isinstance(net, network):
        raise SaintpruneError(
            f"{adapter} prunes timm's {network.__name__}, but this is a {type(net).__name__}. Supported:"
            " VisionTransformer (TimmViT: ViT, DeiT, DeiT-3, CLIP, SigLIP, DINOv2, MAE) and Eva (TimmEva: EVA, EVA-02,"
            " DINOv3, RoPE ViTs)"
        )
    for number, block in enumerate(net.blocks):
        if type(block) not in blocks:
            names = ", ".join(kind.__name__ for kind in blocks)
            raise SaintpruneError(f"block {number} is a {type(block).__name__}, but {adapter} supports {names} only")
        if not hasattr(block.attn, "k_norm"):
            raise SaintpruneError(
                f"the attention of block {number} is a {type(block.attn).__name__} without the submodule k_norm, where"
                f" {adapter} would observe the keys"
            )


def patch_grid(net: Any, patches: int) -> tuple[int, int] | None:
    """Return (rows, columns) of the patches of the network's fixed input, or of a square one; None if unknown."""
    rows, columns = getattr(net.patch_embed, "grid_size", None) or (0, 0)
    if rows * columns == patches:
        return rows, columns
    side = math.isqrt(patches)
    return (side, side) if side * side == patches else None


def weighted_pool(net: Any, x: Tensor, pool_type: str | None, weights: Tensor, include_prefix: bool) -> Tensor:
    """Pool [B, N, D] as `net.pool` does, with weights [B, N]: 0 leaves a token out.

    Attention pooling adds the weights' logarithm to its logits; averages become weighted averages; maxima leave out
    tokens of weight 0.
    """
    prefix, attn_pool = net.num_prefix_tokens, net.attn_pool
    kept = slice(None) if include_prefix else slice(prefix, None)
    if attn_pool is not None:
        if not isinstance(attn_pool, AttentionPoolLatent):
            raise SaintpruneError(
                f"the head pools by {type(attn_pool).__name__}, which takes no mask: use vote=batch and pool=survivors"
            )
        # Eva's attention pooling sees the special tokens, VisionTransformer's only if told so
        x, weights = x[:, kept], weights[:, kept]
        return attn_pool(x, attn_mask=weights.log().to(x.dtype)[:, None, None])
    pool_type = net.global_pool if pool_type is None else pool_type
    if pool_type == "token":
        return x[:, 0]
    x, weights = x[:, kept], weights[:, kept, None].to(x.dtype)
    mean = (x * weights).sum(1) / weights.sum(1).clamp_min(1e-6)
    top = x.masked_fill(weights == 0, -torch.inf).amax(1) if "max" in str(pool_type) else mean
    if not pool_type:
        raise SaintpruneError("the network returns all tokens (global_pool=''), which cannot be told from padding")
    return {"avg": mean, "max": top, "avgmax": 0.5 * (mean + top)}[str(pool_type)]
