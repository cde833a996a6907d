"""What loaders hand out, as a network takes it: batches of images, with or without labels, and batches of prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from saintprune.errors import SaintpruneError


def images_of(batch: Any, net: nn.Module) -> Tensor:
    """Return the images [B, C, H, W] of a batch, a tensor or (images, labels), as the network takes them."""
    images = batch[0] if isinstance(batch, list | tuple) else batch
    if not isinstance(images, Tensor) or images.ndim != 4:
        raise SaintpruneError(f"a batch of images is (B, C, H, W), alone or with labels, but this is {_kind(batch)}")
    return _moved(images, net)


def labels_of(batch: Any) -> Tensor | None:
    """Return the labels [B] of a batch; None where it has none, or where they are -1."""
    if not isinstance(batch, list | tuple) or len(batch) < 2:
        return None
    labels = torch.as_tensor(batch[1])
    return None if bool((labels < 0).any()) else labels


def prompts_of(batch: Any, net: nn.Module) -> dict[str, Tensor]:
    """Return the inputs of a batch of prompts, a mapping or what has one as `inputs`, as the network takes them."""
    inputs = getattr(batch, "inputs", batch)
    if not isinstance(inputs, Mapping) or "input_ids" not in inputs:
        raise SaintpruneError(
            f"a batch of prompts has input_ids and attention_mask by name, but this is {_kind(batch)}"
        )
    return {name: _moved(value, net) for name, value in inputs.items() if isinstance(value, Tensor)}


def _moved(x: Tensor, net: nn.Module) -> Tensor:
    """Return a tensor on the network's device; floats in its precision."""
    weight = next(net.parameters())
    return x.to(weight.device, weight.dtype if x.is_floating_point() else None)


def _kind(batch: Any) -> str:
    shape = f" of shape {tuple(batch.shape)}" if isinstance(batch, Tensor) else ""
    return f"a {type(batch).__name__}{shape}"
