"""timm's `Eva`: EVA, EVA-02, DINOv3 and the other ViTs with rotary positions (axial or learned per head)."""

from __future__ import annotations

from typing import Any

from timm.models.eva import Eva, EvaBlock, EvaBlockPostNorm
from torch import Tensor, nn

from saintprune.adapters.run import TokenStream
from saintprune.adapters.timm_base import TimmAdapter


class TimmEva(TimmAdapter):
    """Prunes a timm `Eva`; see `ViTAdapter`. Survivors keep the rotary positions of their patches.

    Keys are observed before the rotation, so that similarity compares content. A merged token has the position of the
    token that it merged into.
    """

    network = Eva
    block_classes = (EvaBlock, EvaBlockPostNorm)

    def _attention_half(self, block: Any, x: Tensor, **kwargs: Any) -> Tensor:
        if isinstance(block, EvaBlockPostNorm):
            return x + block.drop_path1(block.norm1(block.attn(x, **kwargs)))
        branch = block.attn(block.norm1(x), **kwargs)
        return x + block.drop_path1(branch if block.gamma_1 is None else block.gamma_1 * branch)

    def _mlp_half(self, block: Any, x: Tensor) -> Tensor:
        if isinstance(block, EvaBlockPostNorm):
            return x + block.drop_path2(block.norm2(block.mlp(x)))
        branch = block.mlp(block.norm2(x))
        return x + block.drop_path2(branch if block.gamma_2 is None else block.gamma_2 * branch)

    def _norms(self, block: Any) -> tuple[nn.Module, nn.Module] | None:
        return None if isinstance(block, EvaBlockPostNorm) else (block.norm1, block.norm2)

    def _positioned(self, kwargs: dict[str, Any], stream: TokenStream) -> dict[str, Any]:
        rope = kwargs.get("rope")
        if rope is None or stream.positions is None:
            return kwargs
        return {**kwargs, "rope": _gather_rope(rope, stream.positions)}

    @property
    def _pools_prefix(self) -> bool:
        return self.net.attn_pool is not None  # timm's Eva averages patches, but attends over all tokens


def _gather_rope(rope: Tensor, positions: Tensor) -> Tensor:
    """Take the rotary embeddings of the patches that are left.

    Args:
        rope: [P, D] the same for all heads, or [heads, P, D].
        positions: [B, M] int64.

    Returns:
        [B, 1, M, D] or [B, heads, M, D].
    """
    if rope.ndim == 2:
        return rope[positions][:, None]
    return rope[:, positions].transpose(0, 1)  # (h, b, m, d) -> (b, h, m, d)
