"""Prompts of random words and noise for pictures, in the shape that a vision-language model takes: for timing only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from saintprune.errors import SaintpruneError
from saintprune.evaluation.vlm_passes import Inputs, see_images


@torch.inference_mode()
def noise_prompts(net: Any, batch: int, text_tokens: int, seed: int = 0) -> Inputs:
    """Return the inputs of prompts with one image each, the text half before and half after it.

    Args:
        net: the model; the inputs are on its device and in its precision.
        batch: prompts.
        text_tokens: of a prompt, beside the image's.
        seed: of words and pictures.

    Raises:
        SaintpruneError: a kind of model whose pictures are not known here.
    """
    pictures = _PICTURES.get(net.config.model_type)
    if pictures is None:
        raise SaintpruneError(
            f"dataset=synthetic makes no pictures for {type(net).__name__}, only for {', '.join(_PICTURES)}: take a"
            " dataset with images"
        )
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        name: value.to(net.device, net.dtype if value.is_floating_point() else None)
        for name, value in pictures(net.config, batch, generator).items()
    }
    length = sum(len(image) for image in see_images(net, inputs).pooler_output) // batch
    ids = _words(net.config, (batch, text_tokens + length), generator)
    begin = text_tokens // 2
    ids[:, begin : begin + length] = net.config.image_token_id
    inputs["input_ids"] = ids.to(net.device)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "image_grid_thw" in inputs:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == net.config.image_token_id).int()
    return inputs


def _words(config: Any, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return random tokens that stand for text."""
    special = torch.tensor([config.image_token_id, getattr(config, "video_token_id", None) or config.image_token_id])
    words = torch.arange(config.get_text_config().vocab_size)
    words = words[~torch.isin(words, special)]
    return words[torch.randint(len(words), shape, generator=generator)]


def _llava(config: Any, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    tower, patches = config.vision_config, config.image_seq_length - (config.vision_feature_select_strategy == "full")
    # a tower that resamples its position embeddings may have them for larger pictures than the model is given
    side = min(tower.image_size, math.isqrt(patches) * tower.patch_size)
    return {"pixel_values": torch.randn(batch, 3, side, side, generator=generator)}


def _llava_next(config: Any, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    """A square picture of twice the tower's side: four tiles and the overview."""
    side = config.vision_config.image_size
    return {
        "pixel_values": torch.randn(batch, 5, 3, side, side, generator=generator),
        "image_sizes": torch.full((batch, 2), 2 * side),
    }


def _smolvlm(config: Any, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    side = config.vision_config.image_size
    return {"pixel_values": torch.randn(batch, 1, 3, side, side, generator=generator)}


def _internvl(config: Any, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    """One tile a picture."""
    height, width = config.vision_config.image_size
    return {"pixel_values": torch.randn(batch, 3, height, width, generator=generator)}


def _qwen_vl(config: Any, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    """A square picture of 24 x 24 patches, 336 pixels a side at the published patch size."""
    vision, side = config.vision_config, 24
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return {
        "pixel_values": torch.randn(batch * side * side, width, generator=generator),
        "image_grid_thw": torch.tensor([[1, side, side]] * batch),
    }


_PICTURES: dict[str, Callable[[Any, int, torch.Generator], dict[str, Tensor]]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "smolvlm": _smolvlm,
    "llava_onevision": _llava_next,
    "internvl": _internvl,
    "qwen2_vl": _qwen_vl,
    "qwen2_5_vl": _qwen_vl,
}
