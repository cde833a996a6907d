"""What is seen of single images: the keys of their patches at chosen layers, and which patches survive each layer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from saintprune.adapters.base import ViTAdapter
from saintprune.adapters.run import LayerEvent
from saintprune.errors import SaintpruneError
from saintprune.plan import Plan


@torch.inference_mode()
def keys_at(adapter: ViTAdapter, images: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
    """Return the keys of the patches at chosen blocks of a tower that is not pruned.

    Args:
        adapter: of the tower.
        images: [B, 3, H, W], on the network's device.
        layers: 0-based numbers of blocks.

    Returns:
        Block -> [B, P, C] float32, averaged over heads, on the CPU.
    """
    with adapter.pruned(Plan()) as run, ExitStack() as undo:
        observed = {layer: adapter.observe(undo, run, layer, frozenset({"keys"})) for layer in layers}
        adapter.net(images)
        return {layer: found.mean_keys()[:, adapter.prefix :].cpu() for layer, found in observed.items()}


def survivors(
    events: Sequence[LayerEvent],
    sample: int,
    patches: Tensor,
    *,
    prefix: int = 0,
    site: str = "vision",
    group: int = 0,
) -> dict[int, Tensor]:
    """Return which patches of an image are left after each pruned layer.

    Args:
        events: of a run with `recorded=True`.
        sample: which image of the batch; in a decoder, which row of the group.
        patches: [P] int64, those that enter, as indices in the image's row-major grid.
        prefix: special tokens, which stand first; none in a decoder's image spans.
        site: whose events count.
        group: which of a decoder's groups of image spans of one length.

    Returns:
        Layer -> those that are left, in the order of the tokens.

    Raises:
        SaintpruneError: the reductions were not recorded.
    """
    places, found = patches, {}
    for event in events:
        if event.site != site:
            continue
        if event.reductions is None:
            raise SaintpruneError("the survivors were not recorded: use adapter.pruned(plan, recorded=True)")
        reduction = event.reductions[group]
        kept = (reduction.keep[sample, prefix:].cpu() - prefix).clamp_min(0)  # padding may point anywhere
        places = places[kept]
        real = None if reduction.valid is None else reduction.valid[sample, prefix:].cpu()
        found[event.layer] = places if real is None else places[real]
    return found
