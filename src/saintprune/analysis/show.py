"""What is to be seen of single images: how alike their patches are, and which of them a plan leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from saintprune.adapters.base import ViTAdapter
from saintprune.analysis.batches import images_of, prompts_of
from saintprune.analysis.one_image import keys_at, survivors
from saintprune.plan import Plan

COLUMNS = 6


@dataclass(frozen=True, eq=False)
class Shown:
    """The first images of a run.

    Attributes:
        images: [B, 3, H, W], as the network takes them.
        grid: rows and columns of patches.
        keys: block of the tower -> [B, P, C], unpruned.
        left: site -> per image, layer -> which patches are left; empty where the plan prunes nothing there.
        mean: that the images were normalised with.
        std: the same.
        plan_name: what the plan is called.
    """

    images: Tensor
    grid: tuple[int, int]
    keys: Mapping[int, Tensor]
    left: Mapping[str, Sequence[Mapping[int, Tensor]]]
    mean: Sequence[float]
    std: Sequence[float]
    plan_name: str


@torch.inference_mode()
def show(
    adapter: Any, plan: Plan, batch: Any, number: int, *, mean: Sequence[float], std: Sequence[float], plan_name: str
) -> Shown | None:
    """Run the first images of a batch, unpruned and pruned; None where patches cannot be told apart.

    Args:
        adapter: of a network that looks at images, or of a vision-language model.
        plan: to prune by.
        batch: as a loader hands it out.
        number: of images.
        mean: that the images were normalised with.
        std: the same.
        plan_name: what the plan is called.
    """
    tower: ViTAdapter | None
    if isinstance(adapter, ViTAdapter):
        tower, inputs, images = adapter, None, images_of(batch, adapter.net)
    else:
        inputs = prompts_of(batch, adapter.net)
        tower, images = adapter.tower, inputs.get("pixel_values")
    if tower is None or images is None or images.ndim != 4:
        return None
    layers = sorted({round(step * (tower.depth - 1) / (COLUMNS - 1)) for step in range(COLUMNS)})
    keys = keys_at(tower, images[:number], layers)
    left: dict[str, list[dict[int, Tensor]]] = {}
    with adapter.pruned(plan, recorded=True) as run:
        adapter.net(images) if inputs is None else adapter.net(**inputs, use_cache=False, logits_to_keep=1)
        stream = (run if inputs is None else cast(Any, run).vision).current
        grid, patches = stream.grid, stream.patches_at_entry
        for sample in range(min(number, len(images))):
            places = torch.arange(patches)
            for site in ("vision", "language"):
                prefix = tower.prefix if site == "vision" else 0
                found = survivors(run.events, sample, places, prefix=prefix, site=site)
                if found:
                    left.setdefault(site, []).append(found)
                    places = found[max(found)].sort().values  # the decoder reads what is left in the grid's order
    if grid is None:
        return None
    return Shown(images[:number].cpu(), grid, keys, left, mean, std, plan_name)
