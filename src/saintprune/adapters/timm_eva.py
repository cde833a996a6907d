"""timm's `Eva`: EVA, EVA-02, DINOv3 and the other ViTs with rotary positions (axial or learned per head)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timm.models.eva import Eva, EvaBlock, EvaBlockPostNorm
from torch import Tensor, nn

from saintprune.adapters.base import ViTAdapter
from saintprune.adapters.run import TokenStream
from saintprune.adapters.timm_vit import check_network, patch_grid, weighted_pool


class TimmEva(ViTAdapter):
    """Prunes a timm `Eva`; see `ViTAdapter`. Survivors keep the rotary positions of their patches.

    Keys are observed before the rotation, so that similarity compares content. A merged token has the position of the
    token that it merged into.

    Raises:
        SaintpruneError: the network or its blocks are of a kind that is not supported; the message names what is.
    """

    net: Eva

    @property
    def blocks(self) -> list[Any]:
        """The transformer blocks, in order."""
        return list(self.net.blocks)

    @property
    def prefix(self) -> int:
        """Class and register tokens."""
        return self.net.num_prefix_tokens

    def _check_supported(self) -> None:
        check_network(self.net, Eva, (EvaBlock, EvaBlockPostNorm), "TimmEva")

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

    def _attention_modules(self, block: Any) -> tuple[nn.Module, nn.Module, float]:
        return block.attn.q_norm, block.attn.k_norm, block.attn.scale

    def _grid(self, patches: int) -> tuple[int, int] | None:
        return patch_grid(self.net, patches)

    def _positioned(self, kwargs: dict[str, Any], stream: TokenStream) -> dict[str, Any]:
        rope = kwargs.get("rope")
        if rope is None or stream.positions is None:
            return kwargs
        return {**kwargs, "rope": _gather_rope(rope, stream.positions)}

    def _pool(self, stream: TokenStream) -> Callable[..., Tensor] | None:
        weights = stream.pool_weights(self.by_size)
        if weights is None:
            return None
        # timm's Eva hands all tokens to its attention pooling, but averages the patches only
        include_prefix = self.net.attn_pool is not None
        return lambda x, pool_type: weighted_pool(self.net, x, pool_type, weights, include_prefix)


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
