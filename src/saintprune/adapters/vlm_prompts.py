"""The prompts of a vision-language model: where images stand in them, what their text is, how `generate` reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn

from saintprune.adapters.decoder_run import DecoderRun
from saintprune.adapters.instruction import Instruction
from saintprune.adapters.projector import Projection
from saintprune.errors import SaintpruneError


def reading(net: Any, projection: Projection) -> Callable[..., Any]:
    """Return a `generate` that tells the projector the prompts: it encodes images before any forward pass."""
    original = net.generate

    @wraps(original)
    def generate(inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        given = {name: kwargs.get(name) for name in ("input_ids", "inputs_embeds", "attention_mask")}
        given["input_ids"] = inputs if given["input_ids"] is None else given["input_ids"]
        if given["input_ids"] is None and given["inputs_embeds"] is None:
            return original(inputs, *args, **kwargs)
        pad, ids = net.generation_config.pad_token_id, given["input_ids"]
        if given["attention_mask"] is None and ids is not None and pad is not None:
            given["attention_mask"] = ids != pad  # as generate guesses it
        cached = kwargs.get("past_key_values")
        with projection.reading(given, 0 if cached is None else cached.get_seq_length()):
            return original(inputs, *args, **kwargs)

    return generate


def reading_whole(net: Any) -> Callable[..., Any]:
    """Return a `generate` that refuses to read images in several chunks, each of which would be pruned alone."""
    original = net.generate

    @wraps(original)
    def generate(inputs: Any = None, generation_config: Any = None, *args: Any, **kwargs: Any) -> Any:
        name = "prefill_chunk_size"
        own, default = (getattr(config, name, None) for config in (generation_config, net.generation_config))
        chunk = kwargs.get(name, own or default)
        images = kwargs.get("pixel_values") is not None or bool(kwargs.get("mm_encoder_outputs"))
        given = (inputs, kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
        length = max((prompt.shape[1] for prompt in given if prompt is not None), default=math.inf)
        if chunk is not None and images and chunk < length:
            raise SaintpruneError(
                f"{name}={chunk} would cut images in parts that are pruned apart: use {name}=None for prompts with"
                " images"
            )
        return original(inputs, generation_config, *args, **kwargs)

    return generate


def instruction(net: Any, given: Mapping[str, Any], seen: int) -> Instruction:
    """Return the prompts among the arguments of a call, without the `seen` tokens that a cache holds already."""
    embeds, mask = given.get("inputs_embeds"), given.get("attention_mask")
    if embeds is None:
        tokens, embed = given["input_ids"][:, seen:], net.get_input_embeddings()
        visual = image_places(net, {"input_ids": tokens})
    else:
        tokens, embed = embeds[:, seen:], nn.Identity()
        visual = image_places(net, {"inputs_embeds": tokens})
    return Instruction(partial(embed, tokens), visual, None if mask is None else mask[:, -visual.shape[1] :].bool())


def image_places(net: Any, given: Mapping[str, Any]) -> Tensor:
    """Return [B, T] bool: the places of image tokens in the prompts."""
    token = net.config.image_token_id
    if given.get("input_ids") is not None:
        return given["input_ids"] == token
    embeds = given["inputs_embeds"]
    return (embeds == net.get_input_embeddings()(torch.tensor(token, device=embeds.device))).all(-1)


def check_counts(net: Any, run: DecoderRun) -> None:
    """Raise where the prompts' placeholders and the images' tokens differ in number."""
    visual, lengths = run.visual, run.image_lengths
    if visual is None or lengths is None:
        return
    wanted, given = int(visual.sum()), sum(lengths)
    if wanted != given:
        raise SaintpruneError(
            f"the prompts have {wanted} image placeholders (token {net.config.image_token_id}), but the"
            f" {len(lengths)} image(s) given make {given} tokens: let the model's own processor make prompts and"
            " images together"
        )


def check_no_placeholders(net: Any, visual: Tensor | None) -> None:
    """Raise where prompts without images have placeholders."""
    if visual is not None and bool(visual.any()):
        raise SaintpruneError(
            f"the prompts have {int(visual.sum())} image placeholders (token {net.config.image_token_id}), but"
            " no image was given: pass pixel_values, or leave the placeholders out"
        )
