"""One batch through a network under different plans: its outputs, its features, and what each plan dropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from saintprune.adapters.base import ViTAdapter
from saintprune.adapters.head import read_by
from saintprune.analysis.batches import images_of, labels_of, prompts_of
from saintprune.errors import SaintpruneError
from saintprune.plan import Plan

if TYPE_CHECKING:
    from saintprune.adapters.vlm import VLM


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one pass gave.

    Attributes:
        outputs: [B, D], logits where the network classifies; of a vision-language model those of the first token of the
            answer.
        features: [B, F], what the classifier reads; where there is none, the outputs.
        dropped: share of the site's patches that was dropped.
    """

    outputs: Tensor
    features: Tensor
    dropped: float


Pass = Callable[[Plan], Outcome]


def depth_of(adapter: ViTAdapter | VLM, site: str) -> int:
    """Return the number of layers that can be pruned at a site.

    Raises:
        SaintpruneError: there are none.
    """
    if isinstance(adapter, ViTAdapter):
        depths = {"vision": adapter.depth}
    else:
        from saintprune.adapters.vlm_families import last_read_block  # transformers only where it is needed

        depths = {"language": adapter.depth}
        if adapter.tower is not None:
            depths["vision"] = last_read_block(adapter.net, adapter.tower.depth) + 1
    if site not in depths:
        raise SaintpruneError(
            f"site={site!r} has no layers to prune one by one in a {type(adapter.net).__name__}: use"
            f" {' or '.join(depths)}"
        )
    return depths[site]


def passes_of(adapter: ViTAdapter | VLM, batch: Any, site: str) -> tuple[Pass, Tensor | None]:
    """Return what runs a batch under a plan of one site, and the batch's labels [B], None without any."""
    if isinstance(adapter, ViTAdapter):
        images = images_of(batch, adapter.net)

        def of_images(plan: Plan) -> Outcome:
            with adapter.pruned(plan) as run, read_by(adapter.head) as read:
                output = _pooled(adapter.net(images))
            dropped = (run.tokens_at_entry - run.tokens_per_layer[-1]) / run.current.patches_at_entry
            return Outcome(output, read[0] if read else output, dropped)

        return of_images, labels_of(batch)
    inputs = prompts_of(batch, adapter.net)

    def of_prompts(plan: Plan) -> Outcome:
        with adapter.pruned(plan) as run, read_by(adapter.net.get_output_embeddings()) as read:
            logits = adapter.net(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
        features = read[0][:, -1]
        if site == "vision":
            tower = run.vision
            dropped = 0.0 if tower is None else tower.tokens_at_entry - tower.tokens_per_layer[-1]
            return Outcome(logits, features, 0.0 if tower is None else dropped / tower.current.patches_at_entry)
        entered = run.decoder.tokens_at_entry - (0.0 if run.decoder.prompt is None else run.decoder.prompt.text)
        return Outcome(logits, features, 1 - run.visual_tokens_per_layer[-1] / entered if entered else 0.0)

    return of_prompts, None


def _pooled(output: Any) -> Tensor:
    """Return [B, D] of what a network puts out: a tensor, or the pooled features of a tower of transformers."""
    if isinstance(output, Tensor):
        return output
    pooled = getattr(output, "pooler_output", None)
    if pooled is None:
        raise SaintpruneError("drop sensitivity compares one output per image, but this tower pools nothing")
    return pooled
