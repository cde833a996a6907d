"""What timm's ViT families share: where blocks, queries, keys and the patch grid are, and how heads pool."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial, wraps
from inspect import signature
from typing import Any, ClassVar

import torch
from timm.layers import Format, PatchEmbed
from timm.layers.attention_pool import AttentionPoolLatent
from torch import Tensor, nn
from torch.nn.functional import linear

from saintprune.adapters.base import ViTAdapter
from saintprune.adapters.borrow import patch
from saintprune.adapters.observed import Observed
from saintprune.adapters.run import PrunedRun
from saintprune.errors import SaintpruneError
from saintprune.plan import Plan
from saintprune.reduction.baselines import KeepAll


class TimmAdapter(ViTAdapter):
    """Prunes a timm network of the class `network` whose blocks are exactly of the classes `block_classes`.

    Raises:
        SaintpruneError: the network or its blocks are of a kind that is not supported; the message names what is.
    """

    network: ClassVar[type[nn.Module]]
    block_classes: ClassVar[tuple[type[nn.Module], ...]]
    net: Any

    @property
    def blocks(self) -> list[Any]:
        """The transformer blocks, in order."""
        return list(self.net.blocks)

    @property
    def prefix(self) -> int:
        """Class, distillation and register tokens."""
        return self.net.num_prefix_tokens

    @property
    def classifier(self) -> nn.Module | None:
        """The network, where it has classes; without any it gives features."""
        return self.net if self.net.num_classes else None

    @property
    def head(self) -> nn.Linear | None:
        """timm's `head`, where it alone gives the logits: a distilled network has two."""
        head = self.net.head
        alone = self.net.num_classes and isinstance(head, nn.Linear) and not hasattr(self.net, "head_dist")
        return head if alone else None

    @property
    def _pools_prefix(self) -> bool:
        """Whether the head's pooling sees the special tokens."""
        return False

    def _check_supported(self) -> None:
        name, kind = type(self).__name__, type(self.net).__name__
        if not isinstance(self.net, self.network):
            raise SaintpruneError(
                f"{name} prunes timm's {self.network.__name__}, but this is a {kind}. Supported: VisionTransformer by"
                " TimmViT (ViT, DeiT, DeiT-3, CLIP, SigLIP, DINOv2, MAE), Eva by TimmEva (EVA, EVA-02, DINOv3, RoPE)"
            )
        for number, block in enumerate(self.blocks):
            if type(block) not in self.block_classes:
                known = ", ".join(kind.__name__ for kind in self.block_classes)
                raise SaintpruneError(f"block {number} is a {type(block).__name__}, but {name} supports {known} only")
            if not hasattr(block.attn, "k_norm"):
                raise SaintpruneError(
                    f"the attention of block {number} is a {type(block.attn).__name__} without the submodule k_norm,"
                    f" where {name} would observe the keys"
                )

    def _attention_modules(self, block: Any) -> tuple[nn.Module, nn.Module, float]:
        return block.attn.q_norm, block.attn.k_norm, block.attn.scale

    def _watch_values(self, undo: ExitStack, block: Any, observed: Observed) -> None:
        """Take the values from the module that makes them; where timm calls none of its modules, make them again."""
        attn = block.attn
        fused = getattr(attn, "qkv", None)

        def catch(module: nn.Module, args: Any, output: Tensor) -> None:
            observed.value = partial(_values, output, attn.head_dim, 1 if fused is None else 3)

        def catch_input(module: nn.Module, args: Any) -> None:
            observed.value = partial(_projected_values, attn, args[0])

        if fused is None:
            undo.callback(attn.v_proj.register_forward_hook(catch).remove)
        elif getattr(attn, "q_bias", None) is None or attn.qkv_bias_separate:
            undo.callback(fused.register_forward_hook(catch).remove)
        else:
            undo.callback(attn.register_forward_pre_hook(catch_input).remove)

    def _install(self, undo: ExitStack, plan: Plan, run: PrunedRun) -> None:
        super()._install(undo, plan, run)
        self._watch_images(undo, self.net.patch_embed)
        patch(undo, self.net, "pool", self._pool_forward(self.net.pool, run))
        if plan.resize is not None or any(not isinstance(stage.method, KeepAll) for stage in plan.stages.values()):
            patch(undo, self.net, "forward_intermediates", _without_maps(self.net.forward_intermediates))

    def _grid(self, patches: int) -> tuple[int, int] | None:
        """Return (rows, columns) of the patches of the images that are on their way; None if they do not fit."""
        size_of = getattr(self.net.patch_embed, "dynamic_feat_size", None)
        if size_of is None or self._image_size is None:
            return None
        rows, columns = size_of(self._image_size)
        return (rows, columns) if rows * columns == patches else None

    @property
    def _embedding(self) -> tuple[nn.Module, tuple[int, int]] | None:
        embedding = self.net.patch_embed
        if not isinstance(embedding, PatchEmbed):
            return None
        rows, columns = embedding.patch_size
        return embedding, (int(rows), int(columns))

    def _take_any_size(self, undo: ExitStack) -> dict[str, Any]:
        """Switch on what timm makes with `dynamic_img_size=True`."""
        patch(undo, self.net, "dynamic_img_size", True)
        for name, value in {"strict_img_size": False, "flatten": False, "output_fmt": Format.NHWC}.items():
            patch(undo, self.net.patch_embed, name, value)
        rope: Any = getattr(self.net, "rope", None)
        if hasattr(rope, "_use_cached_embed"):  # of rotary positions that were worked out for one size
            patch(undo, rope, "_use_cached_embed", False)
        return {}

    def _pool_forward(self, original: Callable[..., Tensor], run: PrunedRun) -> Callable[..., Tensor]:
        """Return a `net.pool` that leaves out padding and, where asked for, weighs tokens by their sizes."""

        def pool(x: Tensor, pool_type: str | None = None) -> Tensor:
            weights = None if run.stream is None else run.stream.pool_weights(self.by_size)
            return original(x, pool_type) if weights is None else self._weighted_pool(x, pool_type, weights)

        return pool

    def _weighted_pool(self, x: Tensor, pool_type: str | None, weights: Tensor) -> Tensor:
        """Pool [B, N, D] as `net.pool` does, with weights [B, N]: 0 leaves a token out.

        Attention pooling adds the weights' logarithm to its logits; averages become weighted averages; maxima leave out
        tokens of weight 0.
        """
        pool_type = self.net.global_pool if pool_type is None else pool_type
        attn_pool = self.net.attn_pool
        if attn_pool is None and pool_type == "token":
            return x[:, 0]
        first = 0 if self._pools_prefix else self.prefix
        x, weights = x[:, first:], weights[:, first:]
        if attn_pool is not None:
            if not isinstance(attn_pool, AttentionPoolLatent):
                kind = type(attn_pool).__name__
                raise SaintpruneError(f"the head pools by {kind}, which takes no mask: use vote=batch, pool=survivors")
            return attn_pool(x, attn_mask=weights.log().to(x.dtype)[:, None, None])
        if not pool_type:
            raise SaintpruneError("the network returns all tokens (global_pool=''), where padding could not be told")
        weights = weights[..., None]
        mean = ((x.float() * weights).sum(1) / weights.sum(1).clamp_min(1e-6)).to(x.dtype)  # fp16 sums overflow
        top = x.masked_fill(weights == 0, -torch.inf).amax(1) if "max" in pool_type else mean
        return {"avg": mean, "max": top, "avgmax": 0.5 * (mean + top)}[pool_type]


def _without_maps(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `forward_intermediates` that makes no maps, into whose grid timm would fold the tokens that are left."""
    parameters = signature(original)

    @wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        given = parameters.bind(*args, **kwargs)
        given.apply_defaults()
        if given.arguments["output_fmt"] == "NCHW":
            raise SaintpruneError(
                "feature maps need the whole grid of patches, of which pruning leaves a part: ask for tokens"
                " (output_fmt='NLC', reshape=False)"
            )
        return original(*args, **kwargs)

    return forward


def _values(projected: Tensor, width: int, parts: int) -> Tensor:
    """Return values [B, heads, N, width]: the last of the equal parts of a projection [B, N, parts * heads * width]."""
    return projected.chunk(parts, dim=-1)[-1].unflatten(-1, (-1, width)).transpose(1, 2)


def _projected_values(attn: Any, x: Tensor) -> Tensor:
    """Project tokens [B, N, D] to values [B, heads, N, width] by the last third of a fused projection."""
    weight = attn.qkv.weight.chunk(3)[-1]
    bias = attn.v_bias
    return _values(linear(x.to(weight.dtype), weight, bias), attn.head_dim, 1)
