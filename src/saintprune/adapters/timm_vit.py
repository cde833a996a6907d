"""timm's `VisionTransformer`: ViT, DeiT (also distilled), DeiT-3, CLIP, SigLIP, DINOv2 (also registers), MAE."""

from __future__ import annotations

from typing import Any

from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from torch import Tensor, nn

from saintprune.adapters.timm_base import TimmAdapter


class TimmViT(TimmAdapter):
    """Prunes a timm `VisionTransformer`; see `ViTAdapter`."""

    network = VisionTransformer
    block_classes = (Block, ResPostBlock)

    def _attention_half(self, block: Any, x: Tensor, **kwargs: Any) -> Tensor:
        if isinstance(block, ResPostBlock):
            return x + block.drop_path1(block.norm1(block.attn(x, **kwargs)))
        return x + block.drop_path1(block.ls1(block.attn(block.norm1(x), **kwargs)))

    def _mlp_half(self, block: Any, x: Tensor) -> Tensor:
        if isinstance(block, ResPostBlock):
            return x + block.drop_path2(block.norm2(block.mlp(x)))
        return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))

    def _norms(self, block: Any) -> tuple[nn.Module, nn.Module] | None:
        return None if isinstance(block, ResPostBlock) else (block.norm1, block.norm2)

    @property
    def _pools_prefix(self) -> bool:
        return getattr(self.net, "pool_include_prefix", False)
