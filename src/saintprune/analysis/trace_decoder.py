"""The decoder's part of a trace: image tokens, text tokens, and both together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saintprune.adapters.decoder_run import DecoderRun
from saintprune.adapters.hf_decoder import HFDecoder
from saintprune.adapters.observed_layer import ObservedLayer, observe
from saintprune.adapters.vlm import VLM
from saintprune.analysis.batches import prompts_of
from saintprune.analysis.recorder import Recorder
from saintprune.analysis.statistics import cross_statistics, token_statistics
from saintprune.analysis.trace import tower_traced, without_autocast
from saintprune.errors import SaintpruneError
from saintprune.plan import Plan


def watch(undo: ExitStack, adapter: HFDecoder | VLM, rank_every: int) -> tuple[list[Recorder], Callable[[Any], int]]:
    """Hook a decoder, and the tower in front of it; return what gathers, and what runs a batch and tells its size."""
    if isinstance(adapter, VLM):
        recorders = []
        if adapter.tower is not None:
            recorders.append(undo.enter_context(tower_traced(adapter.tower, rank_every)))
        run, decoder, core = undo.enter_context(adapter.pruned(Plan())).decoder, adapter.decoder, adapter.core
    elif isinstance(adapter, HFDecoder):
        recorders, decoder, core = [], adapter, adapter.net
        run = undo.enter_context(adapter.pruned(Plan(), visual=torch.zeros(0, 0, dtype=torch.bool)))
        run.visual = None
    else:
        raise SaintpruneError(f"a trace needs an adapter (TimmViT, HFVision, HFDecoder, VLM), not {type(adapter)}")
    traced = _Decoder(run, decoder.depth, rank_every)
    for layer in range(decoder.depth):
        traced.watch(undo, observe(undo, decoder, run, layer), decoder.net.layers[layer], layer)

    def run_batch(batch: Any) -> int:
        inputs = prompts_of(batch, core)
        core(**inputs, use_cache=False)  # without the head, whose logits for all tokens nobody reads
        return len(inputs["input_ids"])

    return [*recorders, *traced.recorders], run_batch


@dataclass(frozen=True, eq=False)
class _Group:
    """Some tokens of each prompt, after the one that answers.

    Attributes:
        index: [B, 1 + N] int64, their slots.
        valid: [B, 1 + N] bool, False marks padding; None means that there is none.
    """

    index: Tensor
    valid: Tensor | None

    @classmethod
    def of(cls, mask: Tensor, last: Tensor) -> _Group:
        """Return the tokens of a mask [B, M] after those in the slots `last` [B]."""
        count = mask.sum(1)
        width = max(int(count.max()), 1)
        order = mask.long().argsort(dim=1, descending=True, stable=True)[:, :width]
        valid = torch.arange(-1, width, device=mask.device) < count[:, None]
        return cls(torch.cat([last[:, None], order], 1), None if bool(valid.all()) else valid)

    def take(self, x: Tensor) -> Tensor:
        """Return [B, 1 + N, ...] of [B, M, ...]."""
        return x[torch.arange(len(x), device=x.device)[:, None], self.index]


class _Decoder:
    """Tells about the tokens of a decoder's layers, in three groups of pairs."""

    def __init__(self, run: DecoderRun, depth: int, rank_every: int) -> None:
        self.run = run
        self.vision, self.text, self.across = self.recorders = [
            Recorder(f"language/{pairs}", depth, rank_every) for pairs in ("vision-vision", "text-text", "vision-text")
        ]
        self._groups: tuple[_Group, _Group] | None = None

    def watch(self, undo: ExitStack, observed: ObservedLayer, module: nn.Module, layer: int) -> None:
        """Hook one layer: when it has run, its tokens are told about and its queries and keys freed."""

        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], states: Tensor) -> None:
            if layer == 0:
                self._groups = self._split(states)
            keys, row = observed.mean_keys(), observed.importance()
            observed.forget()
            before = args[0] if args else kwargs["hidden_states"]
            with without_autocast(states):
                self._add(layer, keys, states, before, row)

        undo.callback(module.register_forward_hook(record, with_kwargs=True).remove)

    def _split(self, states: Tensor) -> tuple[_Group, _Group]:
        """Return the image tokens and the text tokens of the prompts on their way."""
        real = self.run.current.alive()
        place = torch.arange(real.shape[1], device=real.device)
        last = (real * place).argmax(1)
        rest = real & (place != last[:, None])
        visual = torch.zeros_like(real) if self.run.visual is None else self.run.visual.to(real.device)
        return _Group.of(rest & visual, last), _Group.of(rest & ~visual, last)

    def _add(self, layer: int, keys: Tensor, states: Tensor, before: Tensor, row: Tensor) -> None:
        """Add the statistics of one layer, of the prompts' tokens [B, M, ...]."""
        assert self._groups is not None
        taken = [(group.take(keys), group.take(states), group.valid) for group in self._groups]
        for recorder, group, (own_keys, own_states, valid) in zip(
            (self.vision, self.text), self._groups, taken, strict=True
        ):
            found = token_statistics(
                own_keys,
                own_states,
                group.take(before),
                prefix=1,
                valid=valid,
                attention=group.take(row),
                ranked=recorder.ranked,
            )
            recorder.add(layer, found)
        (vision_keys, vision_states, vision), (text_keys, text_states, text) = taken
        found = cross_statistics(
            (vision_keys[:, 1:], text_keys[:, 1:]),
            (vision_states[:, 1:], text_states[:, 1:]),
            valid=tuple(None if valid is None else valid[:, 1:] for valid in (vision, text)),
        )
        self.across.add(layer, found)
