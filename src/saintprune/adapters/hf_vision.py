"""Hugging Face vision towers: CLIP, SigLIP, DINOv2 (also with registers), ViT."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, create_bidirectional_mask
from transformers.models.clip.modeling_clip import CLIPEncoderLayer, CLIPVisionModel, CLIPVisionModelWithProjection
from transformers.models.dinov2.modeling_dinov2 import Dinov2Layer, Dinov2Model
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import (
    Dinov2WithRegistersLayer,
    Dinov2WithRegistersModel,
)
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer, SiglipVisionModel
from transformers.models.vit.modeling_vit import ViTForImageClassification, ViTLayer, ViTModel

from saintprune.adapters.base import ViTAdapter
from saintprune.adapters.borrow import patch
from saintprune.adapters.observed import Observed
from saintprune.adapters.resize import whole_patches
from saintprune.adapters.run import PrunedRun, TokenStream
from saintprune.errors import SaintpruneError
from saintprune.plan import Plan, Step


@dataclass(frozen=True)
class _Family:
    """Where a tower keeps its layers, and a layer the submodules of its two halves.

    Attributes:
        layer: class of the layers.
        layers: path of their list in the tower.
        attention: the attention's name in a layer.
        norms: names of the norms before attention and MLP.
        ends: names of what follows attention and MLP before the residual is added.
        class_tokens: number of class tokens.
    """

    layer: type[nn.Module]
    layers: str
    attention: str
    norms: tuple[str, str]
    ends: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    class_tokens: int = 1


_CLIP = ("encoder.layers", "self_attn", ("layer_norm1", "layer_norm2"), ((), ()))
_DINO = (
    "encoder.layer",
    "attention",
    ("norm1", "norm2"),
    (("layer_scale1", "drop_path"), ("layer_scale2", "drop_path")),
)
_VIT = ("layers", "attention", ("layernorm_before", "layernorm_after"), (("dropout",), ("dropout",)))
_FAMILIES: dict[type[nn.Module], _Family] = {
    CLIPVisionModel: _Family(CLIPEncoderLayer, *_CLIP),
    SiglipVisionModel: _Family(SiglipEncoderLayer, *_CLIP, class_tokens=0),
    Dinov2Model: _Family(Dinov2Layer, *_DINO),
    Dinov2WithRegistersModel: _Family(Dinov2WithRegistersLayer, *_DINO),
    ViTModel: _Family(ViTLayer, *_VIT),
}
# heads that read the class token alone; those that average patches by themselves would average padding too
_TOWERS_OF: dict[type[nn.Module], str] = {
    CLIPVisionModelWithProjection: "vision_model",
    ViTForImageClassification: "vit",
}
TOWERS = (*_FAMILIES, *_TOWERS_OF)  # all that HFVision takes
_TAKE_BIAS = ("eager", "sdpa")


class HFVision(ViTAdapter):
    """Prunes a vision tower of transformers; see `ViTAdapter`.

    `last_hidden_state` and `hidden_states` hold the tokens that are left; where samples differ in length, the run's
    `stream.valid` tells the padding at their ends.

    Args:
        net: the tower, or a network whose head reads the tower's class token alone (its tower becomes `net` here).
        pool: how the pooling head of SigLIP weighs the tokens; the other towers pool by their class token.

    Raises:
        SaintpruneError: the network or its layers are of a kind that is not supported; the message names what is.
    """

    net: Any

    def __init__(self, net: nn.Module, pool: Literal["survivors", "sizes"] = "survivors") -> None:
        super().__init__(net.get_submodule(_TOWERS_OF.get(type(net), "")), pool)
        self._given = net

    @property
    def blocks(self) -> list[Any]:
        """The transformer layers, in order."""
        return list(self.net.get_submodule(self._family.layers))

    @property
    def prefix(self) -> int:
        """Class and register tokens."""
        registers = getattr(self.net.embeddings, "register_tokens", None)
        return self._family.class_tokens + (0 if registers is None else registers.shape[1])

    @property
    def classifier(self) -> nn.Module | None:
        """The network that was given, where it is a classifier; `net` is its tower."""
        return self._given if isinstance(self._given, ViTForImageClassification) else None

    @property
    def head(self) -> nn.Linear | None:
        """The last layer of a classifier."""
        head = None if self.classifier is None else self._given.classifier
        return head if isinstance(head, nn.Linear) else None

    @property
    def _family(self) -> _Family:
        return _FAMILIES[type(self.net)]

    def _check_supported(self) -> None:
        if type(self.net) not in _FAMILIES:
            known = ", ".join(kind.__name__ for kind in TOWERS)
            raise SaintpruneError(
                f"HFVision prunes vision towers of transformers, but this is a {type(self.net).__name__}. Supported:"
                f" {known}; of another network that has one of them, give the tower. For timm: TimmViT, TimmEva"
            )
        expected = self._family.layer
        for number, block in enumerate(self.blocks):
            if type(block) is not expected:
                found = type(block).__name__
                raise SaintpruneError(f"block {number} is a {found}, but HFVision supports {expected.__name__} here")

    def _attention_half(self, block: Any, x: Tensor, **kwargs: Any) -> Tensor:
        family = self._family
        branch, _ = getattr(block, family.attention)(getattr(block, family.norms[0])(x), **kwargs)
        for name in family.ends[0]:
            branch = getattr(block, name)(branch)
        return x + branch

    def _mlp_half(self, block: Any, x: Tensor) -> Tensor:
        family = self._family
        branch = block.mlp(getattr(block, family.norms[1])(x))
        for name in family.ends[1]:
            branch = getattr(block, name)(branch)
        return x + branch

    def _norms(self, block: Any) -> tuple[nn.Module, nn.Module]:
        first, second = (getattr(block, name) for name in self._family.norms)
        return first, second

    def _attention_modules(self, block: Any) -> tuple[nn.Module, nn.Module, float]:
        attention = getattr(block, self._family.attention)
        return attention.q_proj, attention.k_proj, attention.head_dim**-0.5

    def _heads(self, block: Any, projected: Tensor) -> Tensor:
        width = getattr(block, self._family.attention).head_dim
        return projected.view(*projected.shape[:-1], -1, width).transpose(1, 2)  # (b, n, h c) -> (b, h, n, c)

    def _watch_values(self, undo: ExitStack, block: Any, observed: Observed) -> None:
        def catch(module: nn.Module, args: Any, output: Tensor) -> None:
            observed.value = partial(self._heads, block, output)

        undo.callback(getattr(block, self._family.attention).v_proj.register_forward_hook(catch).remove)

    def _grid(self, patches: int) -> tuple[int, int] | None:
        """Return (rows, columns) of the patches of the images that are on their way; None if they do not fit."""
        if self._image_size is None:
            return None
        rows, columns = whole_patches(self._image_size, self._patch_size)
        return (rows, columns) if rows * columns == patches else None

    @property
    def _patch_size(self) -> tuple[int, int]:
        size = self.net.config.patch_size
        return (size, size) if isinstance(size, int) else tuple(size)

    @property
    def _embedding(self) -> tuple[nn.Module, tuple[int, int]] | None:
        return self.net.embeddings, self._patch_size

    def _take_any_size(self, undo: ExitStack) -> dict[str, Any]:
        told = "interpolate_pos_encoding" in signature(self.net.embeddings.forward).parameters
        return {"interpolate_pos_encoding": True} if told else {}  # DINOv2 always does

    def _mask(self, stream: TokenStream, x: Tensor) -> dict[str, Any]:
        """Return the mask in the form that the network's implementation of attention takes."""
        mask = stream.attention_mask(x.dtype)
        if mask is None:
            return {"attention_mask": None}
        implementation = self.net.config._attn_implementation
        if implementation not in _TAKE_BIAS:
            if mask.dtype != torch.bool:
                raise _takes_no_bias(implementation)
            if implementation not in ALL_MASK_ATTENTION_FUNCTIONS:
                raise SaintpruneError(
                    f"transformers knows no mask for attn_implementation={implementation!r}, but samples differ in"
                    " length: use vote=batch, or net.set_attn_implementation('sdpa')"
                )
            mask = create_bidirectional_mask(self.net.config, inputs_embeds=x, attention_mask=stream.valid)
        elif mask.dtype == torch.bool and implementation == "eager":
            mask = torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, -torch.inf)
        return {"attention_mask": mask}

    def _forward(
        self,
        block: Any,
        layer: int,
        step: Step | None,
        observed: Observed | None,
        run: PrunedRun,
        begins: bool | None,
    ) -> Callable[..., Tensor]:
        inner = super()._forward(block, layer, step, observed, run, begins)

        def forward(hidden_states: Tensor, attention_mask: Any = None, **kwargs: Any) -> Tensor:
            if _masks_something(attention_mask):
                raise SaintpruneError("pruning does not support an attention_mask given to a vision tower")
            return inner(hidden_states, **kwargs)

        return forward

    def check(self, plan: Plan) -> None:
        """Check that a plan fits the network, see `ViTAdapter.check`, and its kind of attention."""
        super().check(plan)
        implementation = self.net.config._attn_implementation
        stages = [stage for look in plan.looks for stage in look.stages.values()]
        if implementation not in _TAKE_BIAS and any(s.method.merges and s.proportional_attention for s in stages):
            raise _takes_no_bias(implementation)

    def _install(self, undo: ExitStack, plan: Plan, run: PrunedRun) -> None:
        super()._install(undo, plan, run)
        self._watch_images(undo, self.net.embeddings)
        if getattr(self.net, "use_head", False):
            pooling = self.net.head.attention
            patch(undo, pooling, "forward", self._pooling_forward(pooling.forward, run))

    def _pooling_forward(self, original: Callable[..., Any], run: PrunedRun) -> Callable[..., Any]:
        """Return a forward of SigLIP's pooling attention that leaves out padding and may weigh by sizes."""

        def forward(query: Tensor, key: Tensor, value: Tensor) -> Any:
            weights = None if run.stream is None else run.stream.pool_weights(self.by_size)
            bias = None if weights is None else weights.log().to(query.dtype)  # 0 becomes -inf
            return original(query, key, value, key_padding_mask=bias)

        return forward


def _takes_no_bias(implementation: str) -> SaintpruneError:
    return SaintpruneError(
        f"attn_implementation={implementation!r} takes no bias, which proportional attention to merged tokens needs:"
        " call net.set_attn_implementation('sdpa'), or set proportional_attention=false"
    )


def _masks_something(mask: Any) -> bool:
    """Return whether a mask, boolean or additive, hides or weighs any token; a kind that is neither counts as one."""
    if mask is None:
        return False
    if not isinstance(mask, Tensor):
        return True
    return bool((mask != 0).any()) if mask.is_floating_point() else not bool(mask.all())
