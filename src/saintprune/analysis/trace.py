"""Run images or prompts through an unpruned network once, and tell layer by layer how alike its tokens are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from saintprune.adapters.base import ViTAdapter
from saintprune.adapters.run import PrunedRun
from saintprune.analysis.batches import images_of
from saintprune.analysis.curves import Curves
from saintprune.analysis.recorder import Recorder
from saintprune.analysis.statistics import token_statistics
from saintprune.errors import SaintpruneError
from saintprune.plan import Plan

if TYPE_CHECKING:
    from saintprune.adapters.hf_decoder import HFDecoder
    from saintprune.adapters.vlm import VLM

RANK_EVERY = 8


def trace(
    adapter: ViTAdapter | HFDecoder | VLM,
    batches: Iterable[Any],
    *,
    rank_every: int = RANK_EVERY,
    meta: Mapping[str, Any] | None = None,
    advance: Callable[[int], None] = lambda images: None,
) -> list[Curves]:
    """Return the curves of each part of a network that is not pruned.

    One forward pass per batch; each layer's statistics are computed when it has run, and its tensors freed before the
    next one. Of attention only the query row is formed. Parts: "vision", the blocks of a ViT or of a vision-language
    model's tower where its patches can be told apart; "language/vision-vision", "language/text-text" and
    "language/vision-text", the decoder's tokens among themselves and across. There the last token of a prompt, the one
    that answers, stands in for the class token and belongs to no group, and all image tokens of a prompt are one group.

    Args:
        adapter: of the network; its weights and classes stay as they are.
        batches: images, alone or with labels; prompts, as mappings or as `VQABatch`, for decoders.
        rank_every: the effective rank of the states is computed for one image in so many; the others have NaN.
        meta: is written into the curves.
        advance: is told after each batch how many images (prompts) are done.

    Raises:
        SaintpruneError: there are no batches, they do not fit the adapter, or the network is being pruned.
    """
    if rank_every < 1:
        raise ValueError(f"rank_every is {rank_every}, but must be at least 1")
    done = 0
    with ExitStack() as undo, torch.inference_mode():
        recorders, run_batch = _watch(undo, adapter, rank_every)
        for batch in batches:
            done += run_batch(batch)
            for recorder in recorders:
                recorder.end_pass()
            advance(done)
    if not done:
        raise SaintpruneError("there are no batches to trace: give a dataset with images or prompts")
    found = [recorder.curves(meta or {}) for recorder in recorders]
    return [curves for curves in found if curves is not None]


def _watch(
    undo: ExitStack, adapter: ViTAdapter | HFDecoder | VLM, rank_every: int
) -> tuple[list[Recorder], Callable[[Any], int]]:
    """Hook a network; return what gathers its statistics, and what runs a batch and tells its size."""
    if not isinstance(adapter, ViTAdapter):
        from saintprune.analysis.trace_decoder import watch  # transformers only where it is needed

        return watch(undo, adapter, rank_every)
    recorder = undo.enter_context(tower_traced(adapter, rank_every))

    def run_batch(batch: Any) -> int:
        images = images_of(batch, adapter.net)
        adapter.net(images)
        return len(images)

    return [recorder], run_batch


@contextmanager
def tower_traced(adapter: ViTAdapter, rank_every: int) -> Iterator[Recorder]:
    """Record the blocks of a vision tower for as long as the `with` block lasts."""
    recorder = Recorder("vision", adapter.depth, rank_every)
    with adapter.pruned(Plan()) as run, ExitStack() as undo:
        for layer in range(adapter.depth):
            _watch_block(undo, adapter, run, layer, recorder)
        yield recorder


def _watch_block(undo: ExitStack, adapter: ViTAdapter, run: PrunedRun, layer: int, recorder: Recorder) -> None:
    """Hook one block: when it has run, its tokens are told about and its queries and keys freed."""
    observed = adapter.observe(undo, run, layer, frozenset({"keys", "importance"}))

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], states: Tensor) -> None:
        keys, attention = observed.mean_keys(), observed.attention(run.current)
        observed.forget()
        before = args[0] if args else kwargs["hidden_states"]
        with without_autocast(states):
            found = token_statistics(
                keys,
                states,
                before,
                prefix=adapter.prefix,
                attention=attention,
                ranked=recorder.ranked,
            )
        recorder.add(layer, found)

    undo.callback(adapter.blocks[layer].register_forward_hook(record, with_kwargs=True).remove)


def without_autocast(x: Tensor) -> torch.autocast:
    """Return the context in which float32 products stay float32, also where the network runs under autocast."""
    return torch.autocast(x.device.type, enabled=False)
