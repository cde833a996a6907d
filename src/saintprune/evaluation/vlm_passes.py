"""What is scored and timed of a vision-language model: reading a prompt, going on from it, and what was left of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saintprune.adapters.vlm import VLM, VLMRun

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class TokenCounts:
    """Mean real tokens of a sample.

    Attributes:
        layers: that leave each decoder layer, text included.
        visual: image tokens that leave each decoder layer.
        tower: that leave each block of the tower, per image, special ones included; None where it is not pruned.
    """

    layers: list[float]
    visual: list[float]
    tower: list[float] | None


def mask_of(inputs: Inputs) -> Tensor:
    """Return [B, T], 1 for real tokens of the prompts and 0 for padding."""
    return inputs["attention_mask"] if "attention_mask" in inputs else torch.ones_like(inputs["input_ids"])


def read_prompt(net: Any, inputs: Inputs) -> Any:
    """Return the output of a forward pass over prompts, with a cache and the logits [B, 1, V] of the last token."""
    positions = {} if _has_grid_positions(net) else {"position_ids": _positions(mask_of(inputs))}
    return net(**inputs, **positions, use_cache=True, logits_to_keep=1)


def go_on(net: Any, tokens: Tensor, mask: Tensor, cache: Any) -> Any:
    """Return the output of a forward pass over the tokens [B, t] that follow what the cache has seen.

    Args:
        net: the model.
        tokens: [B, t].
        mask: [B, T + t], 1 for real tokens, those to come included.
        cache: that has seen T tokens; it takes in the new ones.
    """
    positions = _positions(mask)[:, -tokens.shape[1] :]
    if _has_grid_positions(net):  # an image takes fewer positions than tokens
        positions = (positions + net.model.rope_deltas).expand(3, -1, -1)
    return net(
        input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    )  # fmt: skip


def answer(net: Any, inputs: Inputs, tokens: int) -> Iterator[Tensor]:
    """Yield the tokens [B, 1] of greedy answers, one after the other; an end token does not end them."""
    output, mask = read_prompt(net, inputs), mask_of(inputs)
    token = output.logits[:, -1:].argmax(-1)
    yield token
    for _ in range(tokens - 1):
        mask = longer(mask, 1)
        token = go_on(net, token, mask, output.past_key_values).logits[:, -1:].argmax(-1)
        yield token


def longer(mask: Tensor, count: int) -> Tensor:
    """Return a mask [B, T + count] with real tokens at its end."""
    return torch.cat([mask, mask.new_ones(len(mask), count)], dim=1)


def see_images(net: Any, inputs: Inputs) -> Any:
    """Return what tower and projector make of the images of prompts; None where there are none."""
    if "pixel_values" not in inputs:
        return None
    takes = inspect.signature(net.model.get_image_features).parameters
    return net.model.get_image_features(**{name: inputs[name] for name in takes if name in inputs})


def unpruned_counts(adapter: VLM, inputs: Inputs, run: VLMRun) -> TokenCounts:
    """Return the counts of the untouched model, given what a pruned run knows of the tower."""
    visual = (inputs["input_ids"] == adapter.net.config.image_token_id).sum(1)
    tower = _tower(run)
    return TokenCounts(
        layers=[mask_of(inputs).sum(1).double().mean().item()] * adapter.depth,
        visual=[visual.double().mean().item()] * adapter.depth,
        tower=None if tower is None else [tower.tokens_at_entry] * tower.depth,
    )


def pruned_counts(run: VLMRun) -> TokenCounts:
    """Return the counts of a run's latest prompts."""
    tower = _tower(run)
    return TokenCounts(
        run.tokens_per_layer, run.visual_tokens_per_layer, None if tower is None else tower.tokens_per_layer
    )


def _tower(run: VLMRun) -> Any:
    """Return the tower's part of a run; None where it is only watched, or saw no image."""
    return run.vision if run.vision is not None and run.vision.stream is not None and run.vision.events else None


def _has_grid_positions(net: Any) -> bool:
    """Return whether the model places image tokens on a grid (mRoPE), and works their positions out itself."""
    return hasattr(net.model, "rope_deltas")


def _positions(mask: Tensor) -> Tensor:
    """Return [B, T]: the places of real tokens, 0 for padding before them, as `generate` numbers them."""
    return (mask.long().cumsum(1) - 1).clamp_min(0)
