"""Pictures of single images: how alike their patches are at chosen layers, and which patches survive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from saintprune.analysis.figures.drawing import VERMILION, picture, styled
from saintprune.errors import SaintpruneError
from saintprune.files import write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_COLUMNS = 7
GONE = 0.88  # how far a dropped patch is blended into white


def similarity_figure(
    image: Tensor,
    keys: Mapping[int, Tensor],
    grid: tuple[int, int],
    path: Path,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    patch: int | None = None,
    title: str = "",
) -> Path:
    """Draw the cosines of one image's patches at chosen layers, raw and centred.

    Three rows: the cosines of all pairs of patches, the same about the mean key, and the centred cosines of one patch
    with all others, where they lie in the image.

    Args:
        image: [3, H, W], as the network takes it.
        keys: layer -> [P, C], see `saintprune.analysis.one_image.keys_at`.
        grid: rows and columns of patches.
        path: of the PNG; the SVG stands beside it.
        mean: that the image was normalised with.
        std: the same.
        patch: the one of the third row; None is the middle of the image.
        title: of the figure.
    """
    layers = thinned(sorted(keys))
    rows, columns = grid
    patch = (rows // 2) * columns + columns // 2 if patch is None else patch
    with styled():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(1.65 * (len(layers) + 1) + 0.9, 5.6), layout="constrained")
        axes = figure.subplots(3, len(layers) + 1, squeeze=False)
        for axis in axes.flatten():
            _bare(axis)
        axes[0, 0].set_visible(False)
        axes[1, 0].set_visible(False)
        axes[2, 0].imshow(picture(image, mean, std).numpy())
        _mark(axes[2, 0], patch, grid, image.shape[-2:])
        axes[2, 0].set_xlabel("the patch")
        shown = None
        for column, layer in enumerate(layers, start=1):
            raw, centred = cosines(keys[layer], False), cosines(keys[layer], True)
            panels = (raw, centred, centred[patch].view(rows, columns))
            for row, values in enumerate(panels):
                shown = axes[row, column].imshow(
                    values.numpy(), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest"
                )
            _mark(axes[2, column], patch, grid, grid)
            axes[0, column].set_title(f"block {layer}", loc="center")
        for row, label in enumerate(("all pairs of patches", "all pairs, centred", "one patch, centred")):
            axes[row, 1].set_ylabel(label)
        assert shown is not None
        figure.colorbar(shown, ax=axes, shrink=0.6, aspect=30, pad=0.02).set_label("cosine of keys")
        figure.suptitle(title or "How alike the patches of one image are", fontsize=11, x=0.01, ha="left")
        return write_figure(figure, path)


def survivors_figure(
    images: Tensor,
    survivors: Sequence[Mapping[int, Tensor]],
    grid: tuple[int, int],
    path: Path,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    labels: Sequence[str] = (),
    title: str = "",
) -> Path:
    """Draw images and, layer by layer, what is left of them: dropped patches fade.

    Args:
        images: [B, 3, H, W], as the network takes them; one row each.
        survivors: per image layer -> indices of patches, see `saintprune.analysis.one_image.survivors`. Rows may be
            pruned at different layers: at the others they show what the last one before has left.
        grid: rows and columns of patches.
        path: of the PNG; the SVG stands beside it.
        mean: that the images were normalised with.
        std: the same.
        labels: of the rows, such as the methods that one image was pruned by.
        title: of the figure.
    """
    layers = thinned(sorted(set().union(*survivors)))
    if not layers:
        raise SaintpruneError("no layer was pruned, so there is nothing to draw: give a plan with a vision stage")
    with styled():
        from matplotlib.figure import Figure

        size = (1.6 * (len(layers) + 1), 1.78 * len(images) + 0.4)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(images), len(layers) + 1, squeeze=False)
        patches = grid[0] * grid[1]
        for row, (image, left) in enumerate(zip(images, survivors, strict=True)):
            whole = picture(image, mean, std)
            axes[row, 0].imshow(whole.numpy())
            axes[row, 0].set_xlabel(f"{patches} patches", fontsize=8)
            if labels:
                axes[row, 0].set_ylabel(labels[row], fontweight="bold")
            for column, layer in enumerate(layers, start=1):
                there = left_after(layer, left, patches)
                axes[row, column].imshow(faded(whole, there, grid).numpy())
                axes[row, column].set_xlabel(f"{len(there)} ({100 * len(there) / patches:.0f} %)", fontsize=8)
        for axis, layer in zip(axes[0], (None, *layers), strict=True):
            axis.set_title("image" if layer is None else f"after block {layer}", loc="center")
        for axis in axes.flatten():
            _bare(axis)
        figure.suptitle(title or "Patches that are left", fontsize=11, x=0.01, ha="left")
        return write_figure(figure, path)


def left_after(layer: int, left: Mapping[int, Tensor], patches: int) -> Tensor:
    """Return which of an image's patches are left after a layer, pruned or not."""
    before = [pruned for pruned in left if pruned <= layer]
    return left[max(before)] if before else torch.arange(patches)


def cosines(keys: Tensor, centred: bool) -> Tensor:
    """Return [P, P], the cosines of keys [P, C], as they are or about their mean."""
    keys = keys.double()
    unit = normalize(keys - keys.mean(0) if centred else keys, dim=-1)
    return unit @ unit.mT


def faded(whole: Tensor, left: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return an image [H, W, 3] whose patches that are not among `left` are blended into white."""
    alive = torch.zeros(grid[0] * grid[1])
    alive[left] = 1
    mask = interpolate(alive.view(1, 1, *grid), size=tuple(whole.shape[:2]), mode="nearest")[0, 0, :, :, None]
    return whole * mask + (whole * (1 - GONE) + GONE) * (1 - mask)


def thinned(layers: Sequence[int], most: int = MOST_COLUMNS) -> list[int]:
    """Return at most so many of the layers, evenly spread, the first and the last among them."""
    if len(layers) <= most:
        return list(layers)
    return [layers[round(number * (len(layers) - 1) / (most - 1))] for number in range(most)]


def _mark(axis: Axes, patch: int, grid: tuple[int, int], size: Sequence[int]) -> None:
    """Frame one patch on an image of a size (rows, columns)."""
    from matplotlib.patches import Rectangle

    height, width = size[0] / grid[0], size[1] / grid[1]
    row, column = divmod(patch, grid[1])
    corner = (column * width - 0.5, row * height - 0.5)
    axis.add_patch(Rectangle(corner, width, height, fill=False, ec=VERMILION if size != grid else "black", lw=1.3))


def _bare(axis: Axes) -> None:
    """Take ticks, frame and grid from a panel."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set_visible(False)
