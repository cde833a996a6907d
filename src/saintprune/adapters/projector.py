"""The site between tower and decoder: image features, one row per token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from saintprune.adapters.hf_decoder import DROPPED
from saintprune.adapters.instruction import Instruction, relevance
from saintprune.adapters.run import LayerEvent, choose, now
from saintprune.adapters.sequence import Spans
from saintprune.errors import SaintpruneError
from saintprune.plan import Step
from saintprune.reduction import LayerState, Reduction
from saintprune.reduction.survivors import keep_masked


@dataclass(eq=False)
class Projection:
    """Prunes image features; those that are dropped become rows of -inf.

    Methods see the features themselves as keys, in float32, the tower's row of attention as importance, and their
    cosine with the mean embedding of the prompt's text as relevance. Images of one length form a batch.

    Attributes:
        step: the plan's step at this site.
        timed: measure the seconds of each selection.
        recorded: keep the reductions in the event.
        importance: returns, given the arguments of `get_image_features`, [n] per image; None where nothing reads it.
        instruct: makes an `Instruction` of the arguments of a call that holds prompts, and the tokens that its cache
            has seen already.
        instruction: the prompts whose images are being encoded; None where nothing reads them or none are known.
        events: one `LayerEvent` of the latest images; lengths count image tokens, mean over the images.
    """

    step: Step
    timed: bool = False
    recorded: bool = False
    importance: Callable[[dict[str, Any]], list[Tensor]] | None = None
    instruct: Callable[[Mapping[str, Any], int], Instruction] | None = None
    instruction: Instruction | None = None
    events: list[LayerEvent] = field(default_factory=list)

    @property
    def relates(self) -> bool:
        """Whether the method reads the prompts."""
        return "relevance" in self.step.stage.method.reads

    @contextmanager
    def reading(self, given: Mapping[str, Any], seen: int = 0) -> Iterator[None]:
        """Know the prompts of a call, by its arguments, for as long as the `with` block lasts."""
        before = self.instruction
        if self.relates and self.instruct is not None:
            self.instruction = self.instruct(given, seen)
        try:
            yield
        finally:
            self.instruction = before

    def apply(self, features: list[Tensor], arguments: dict[str, Any]) -> list[Tensor]:
        """Return the features [n, D] of each image with rows of -inf for the tokens that are dropped."""
        started, device = now(features[0].device, self.timed), features[0].device
        rows = None if self.importance is None else self.importance(arguments)
        before, after, reductions = [], [], []
        features = list(features)
        lengths = [len(feature) for feature in features]
        texts = self._texts(lengths) if self.relates else None
        for number, length in enumerate(dict.fromkeys(lengths)):
            members = tuple(index for index, found in enumerate(lengths) if found == length)
            stacked = torch.stack([features[index] for index in members])
            row = None if rows is None else torch.stack([rows[index] for index in members])
            text = None if texts is None else texts[list(members)]
            spans = _spans(members, stacked)
            before.append(_lengths(spans))
            pruned, reduction = self._reduced(stacked, spans, row, text, number)
            after.append(_lengths(spans))
            reductions.append(reduction)
            for index, feature in zip(members, pruned, strict=True):
                features[index] = feature
        event = LayerEvent(
            stage=self.step.name,
            layer=0,
            lengths_before=torch.cat(before),
            lengths_after=torch.cat(after),
            seconds=now(device, self.timed) - started if self.timed else None,
            reductions=tuple(reductions) if self.recorded else None,
            site="projector",
        )
        self.events = [event]
        return features

    @torch.no_grad()
    def _texts(self, lengths: list[int]) -> Tensor:
        """Return [images, D]: the mean embedding of each image's prompt."""
        if self.instruction is None:
            raise SaintpruneError(
                f"stages.{self.step.name} chooses image tokens by the prompt, but these images were encoded without it:"
                " call the model or its generate with both, or encode images inside `with run.reading(inputs)`"
            )
        return self.instruction.of_images(lengths)

    def _reduced(
        self, x: Tensor, spans: Spans, row: Tensor | None, text: Tensor | None, number: int
    ) -> tuple[Tensor, Reduction]:
        """Let the method select among images of one length: [R, n, D] -> the same with rows of -inf."""
        method, places = self.step.stage.method, spans.places
        tokens = x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))
        if spans.valid is not None:  # padding may point at a row of -inf, whose products are no numbers
            tokens = tokens.masked_fill(~spans.valid[..., None], 0)
        sizes = torch.ones(places.shape, dtype=torch.float32, device=x.device) if method.merges else None
        state = LayerState(
            keys=tokens.float() if "keys" in method.reads else tokens[..., :0],
            tokens=tokens,
            sizes=sizes,
            valid=spans.valid,
            positions=places,
            grid=spans.grid,
            budget=self.step.budget(spans.length),
            attention=None if row is None else partial(row.gather, 1, places),
            group=number,
            relevances=None if text is None else partial(relevance, tokens, text),
        )
        reduction = spans.advance(choose(self.step, state))
        kept = reduction.apply(tokens, sizes)
        target = spans.places
        if spans.valid is not None:
            target = target.masked_fill(~spans.valid, spans.length)
        out = x.new_full((len(x), spans.length + 1, x.shape[-1]), DROPPED)
        return out.scatter_(1, target[..., None].expand_as(kept), kept)[:, : spans.length], reduction


def _spans(members: tuple[int, ...], x: Tensor) -> Spans:
    """Return images [R, n, D] as spans, without the tokens that the tower dropped."""
    places = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
    spans = Spans(members, places, places)
    left = x[..., 0] != DROPPED
    if not bool(left.all()):
        spans.advance(keep_masked(LayerState(keys=x[..., :0]), left))
    return spans


def _lengths(spans: Spans) -> Tensor:
    """Return [R], the tokens that are left of each image."""
    if spans.valid is None:
        return torch.full((len(spans.places),), spans.places.shape[1])
    return spans.valid.sum(1).cpu()
