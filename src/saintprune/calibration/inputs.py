"""What a calibration measures on: images as people have them, as batches on the network's device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from saintprune.adapters.base import ViTAdapter
from saintprune.errors import SaintpruneError

if TYPE_CHECKING:
    from saintprune.adapters.vlm import VLM

    Batch = Tensor | Mapping[str, Tensor]

NOISE = 8  # images


def samples_in(batch: Batch) -> int:
    """Return the number of images, or of prompts, in a batch."""
    return len(_leading(batch))


def device_of(batch: Batch) -> torch.device:
    """Return where a batch lies."""
    return _leading(batch).device


def batches_of(images: Any, adapter: ViTAdapter | VLM, samples: int) -> list[Batch]:
    """Return batches of one size, on the device and in the precision of the network.

    Args:
        images: one batch, [B, C, H, W] or what a processor returns, or a loader of such, labels beside them allowed.
        adapter: of the network.
        samples: of a loader, take so many.

    Raises:
        SaintpruneError: something else, or nothing.
    """
    like = _like(adapter)
    found: list[Batch] = []
    for given in _each(images):
        found.append(_for_vision(given, like) if isinstance(adapter, ViTAdapter) else _for_prompts(given, like))
        if sum(samples_in(batch) for batch in found) >= samples:
            break
    if not found:
        raise SaintpruneError("images is empty, so there is nothing to calibrate on: give some")
    return [batch for batch in found if samples_in(batch) == samples_in(found[0])]


def each_batch(images: Any, adapter: ViTAdapter) -> Iterator[Tensor]:
    """Yield all batches [B, C, H, W], on the device and in the precision of the network.

    Args:
        images: one batch [B, C, H, W], what a processor returns, or a loader of such, labels beside them allowed.
        adapter: of the network.

    Raises:
        SaintpruneError: something else.
    """
    like = _like(adapter)
    for given in _each(images):
        yield _for_vision(given, like)


def noise_for(adapter: ViTAdapter | VLM, samples: int) -> Tensor:
    """Return a seeded batch of noise of the network's input size, [B, C, H, W].

    Raises:
        SaintpruneError: the network reads prompts too, or has no size of its own.
    """
    if not isinstance(adapter, ViTAdapter):
        raise SaintpruneError(
            f"a {type(adapter.net).__name__} is calibrated on prompts: give images=processor(text=…, images=…,"
            " padding=True, return_tensors='pt')"
        )
    size = _input_size(adapter.net)
    if size is None:
        raise SaintpruneError(
            f"this {type(adapter.net).__name__} takes images of any size: give images= to calibrate on"
        )
    like = _like(adapter)
    noise = torch.randn(min(NOISE, samples), *size, generator=torch.Generator().manual_seed(0))
    return noise.to(like.device, like.dtype)


def _input_size(net: Any) -> tuple[int, int, int] | None:
    """Return (channels, rows, columns) of the images that a network of timm or transformers takes."""
    config = getattr(net, "config", None)
    if config is not None:
        size, channels = config.image_size, config.num_channels
    else:
        first = next(module for module in net.patch_embed.modules() if isinstance(module, nn.Conv2d))
        size, channels = net.patch_embed.img_size, first.in_channels  # a hybrid has its backbone before the projection
    if size is None:
        return None
    rows, columns = (size, size) if isinstance(size, int) else size
    return channels, rows, columns


def _like(adapter: ViTAdapter | VLM) -> Tensor:
    """Return a tensor on the network's device and in its precision; quantised weights are no floats."""
    return next(parameter for parameter in adapter.net.parameters() if parameter.is_floating_point())


def _leading(batch: Batch) -> Tensor:
    return batch if isinstance(batch, Tensor) else batch["input_ids"]


def _each(images: Any) -> Iterator[Any]:
    """Yield batches, without the labels that a loader may give beside them."""
    if isinstance(images, Tensor | Mapping):
        yield images
    elif isinstance(images, Iterable):
        for item in images:
            yield item[0] if isinstance(item, tuple | list) and item else item
    else:
        raise SaintpruneError(
            f"images is a {type(images).__name__}, but must be a tensor [B, C, H, W], what a processor returns, or a"
            " loader of such"
        )


def _for_vision(given: Any, like: Tensor) -> Tensor:
    """Return images [B, C, H, W]."""
    images = given.get("pixel_values") if isinstance(given, Mapping) else given
    if not isinstance(images, Tensor) or images.ndim != 4:
        what = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise SaintpruneError(f"images has {what}, but must be [B, C, H, W], normalised as the network takes it")
    return images.to(like.device, like.dtype)


def _for_prompts(given: Any, like: Tensor) -> dict[str, Tensor]:
    """Return the tensors of prompts with images."""
    if not isinstance(given, Mapping) or not {"input_ids", "pixel_values"} <= set(given):
        raise SaintpruneError(
            "a vision-language model is calibrated on what its processor returns, with input_ids and pixel_values, but"
            f" images has {list(given) if isinstance(given, Mapping) else type(given).__name__}"
        )
    mask = given.get("attention_mask")
    if isinstance(mask, Tensor) and not bool(mask[:, -1].all()):
        raise SaintpruneError(
            "images has prompts that are padded on the right, so that padding stands where answers are compared, at the"
            " end: set processor.tokenizer.padding_side = 'left'"
        )
    return {
        name: value.to(like.device, like.dtype if value.is_floating_point() else None)
        for name, value in given.items()
        if isinstance(value, Tensor)
    }
