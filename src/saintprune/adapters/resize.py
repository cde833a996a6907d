"""A tower that sees its images smaller: fewer patches from the first block on, without any of them being dropped.

The images shrink on their way into the network, in whole patches, and its position embeddings are resampled by the
library that it comes from. What that is worth, and where it is not: docs/glance.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from saintprune.adapters.run import PrunedRun
from saintprune.errors import NotForThisModelError


def shrink_what_enters(
    undo: ExitStack,
    run: PrunedRun,
    embedding: nn.Module,
    patch: tuple[int, int],
    prefix: int,
    share: float,
    told: Mapping[str, Any],
) -> None:
    """Let images enter a network at a share of their sides.

    Args:
        undo: takes the undoing.
        run: is told how many tokens the whole images would have.
        embedding: module whose first argument are the images.
        patch: (rows, columns) of pixels.
        prefix: special tokens.
        share: of each side, above 0 and at most 1.
        told: what the module is told beside the images, by keyword.
    """

    def shrink(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        images, *rest = args
        rows, columns = whole_patches(images.shape[-2:], patch)
        run.tokens_of_whole = prefix + rows * columns
        return (shrunk(images, share, patch), *rest), {**kwargs, **told}

    undo.callback(embedding.register_forward_pre_hook(shrink, with_kwargs=True).remove)


def whole_patches(sides: tuple[int, ...], patch: tuple[int, int]) -> tuple[int, int]:
    """Return (rows, columns) of patches that images with sides (height, width) hold."""
    rows, columns = (side // pixels for side, pixels in zip(sides, patch, strict=True))
    return rows, columns


def shrunk(images: Tensor, share: float, patch: tuple[int, int]) -> Tensor:
    """Return images at a share of their sides, rounded to whole patches and to one at least.

    Args:
        images: [B, C, H, W].
        share: of each side, above 0 and at most 1.
        patch: (rows, columns) of pixels.

    Returns:
        [B, C, H', W'], by bicubic interpolation with antialiasing; the images themselves where nothing shrinks.
    """
    before = tuple(images.shape[-2:])
    size = tuple(max(1, round(share * (side / pixels))) * pixels for side, pixels in zip(before, patch, strict=True))
    if share == 1 or size == before:
        return images
    small = F.interpolate(images.float(), size, mode="bicubic", antialias=True, align_corners=False)
    return small.to(images.dtype)


def not_resized(net: object, why: str) -> NotForThisModelError:
    """Return the error of a plan that resizes, for a network that cannot see smaller images."""
    return NotForThisModelError(
        f"resize lets a vision tower see its images smaller, but {type(net).__name__} {why}: leave resize out"
        " (pruning.resize=null)"
    )
