"""What a pruned forward pass of a decoder carries from layer to layer, and what it tells afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import get_ident
from typing import Any

from torch import Tensor

from saintprune.adapters.kv_cache import KeyTap, PrunedLayer
from saintprune.adapters.run import LayerEvent, check_thread, choose, mean_length, now
from saintprune.adapters.sequence import Prompt, Spans
from saintprune.adapters.text_rows import TextRows
from saintprune.plan import Step
from saintprune.reduction import LayerState, Reduction


@dataclass(eq=False)
class View:
    """What one layer attends with.

    Attributes:
        mask: in the form that the implementation of attention takes.
        valid: [B, L] bool over cached and new tokens, False marks padding; None means that all are real.
        embeddings: rotary cosines and sines of the new tokens.
        position_ids: by which kernels unpack sequences; None where they have gaps.
    """

    mask: Any
    valid: Tensor | None
    embeddings: tuple[Tensor, Tensor]
    position_ids: Tensor | None


@dataclass(eq=False)
class DecoderRun:
    """The handle of a pruned decoder: what its latest prompt went through.

    Attributes:
        depth: decoder layers.
        trims: drop a pruned layer's own cache entries as well.
        timed: measure the seconds of each selection.
        recorded: keep each layer's reductions in its event.
        active: whether the `with` block lasts.
        events: one `LayerEvent` per pruned layer of the latest prompt; lengths count text and image tokens.
        prompt: bookkeeping of the latest prompt.
        visual: [B, T] bool on the CPU, the image tokens of the pass to come; None where it has none.
        gaps: whether image tokens may have been dropped before the decoder.
        image_lengths: tokens of each image of the pass to come, where they are known.
        thread: that began the latest pass.
    """

    depth: int
    trims: bool = False
    timed: bool = False
    recorded: bool = False
    active: bool = True
    events: list[LayerEvent] = field(default_factory=list)
    prompt: Prompt | None = None
    visual: Tensor | None = None
    gaps: bool = True
    image_lengths: Sequence[int] | None = None
    tokens_at_entry: float = 0.0
    passes: int = 0
    views: dict[object, View] = field(default_factory=dict)
    embeddings: tuple[Tensor, Tensor] | None = None
    pass_: Prompt | None = None
    thread: int | None = None

    @property
    def current(self) -> Prompt:
        """Bookkeeping of the pass under way."""
        assert self.pass_ is not None
        return self.pass_

    @property
    def tokens_per_layer(self) -> list[float]:
        """Mean real tokens of a sample that leave each layer, text included."""
        tokens, after = self.tokens_at_entry, {event.layer: event.tokens_after for event in self.events}
        return [tokens := after.get(layer, tokens) for layer in range(self.depth)]

    @property
    def visual_tokens_per_layer(self) -> list[float]:
        """Mean image tokens of a sample that leave each layer."""
        text = 0.0 if self.prompt is None else self.prompt.text
        return [round(tokens - text, 6) for tokens in self.tokens_per_layer]

    def begin(self, prompt: Prompt, first: bool) -> None:
        """Start a pass; one that is the first of its cache, or brings images, is a prompt."""
        self.passes += 1
        self.thread = get_ident()
        self.views, self.embeddings, self.pass_ = {}, None, prompt
        if first or prompt.spans:
            self.prompt, self.events = prompt, []
            self.tokens_at_entry = mean_length(prompt.lengths())

    def reduce(
        self,
        step: Step,
        layer: int,
        x: Tensor,
        prompt: Prompt,
        keys: Tensor | None,
        attention: Callable[[], Tensor] | None,
        text: Callable[[], TextRows] | None = None,
    ) -> tuple[Tensor, Reduction | None]:
        """Let the step's method select within each image span.

        Args:
            step: the pruned layer.
            layer: its 0-based number.
            x: [B, M, D], tokens after the layer.
            prompt: their bookkeeping.
            keys: [B, M, C] float32, averaged over KV heads; None where the method does not read them.
            attention: returns [B, M], what the last text token gives to each token, averaged over heads.
            text: returns what every text token gives to each token.

        Returns:
            The tokens, averaged where others merged into them, and the step to the slots that are left, or None.
        """
        check_thread(self.thread)
        started, before, reductions = now(x.device, self.timed), prompt.lengths(), []
        alive, lost, known = prompt.alive(spare=1), [0] * prompt.batch, True
        for number, spans in enumerate(prompt.spans):
            state = self._state(step, layer, x, spans, keys, attention, text, number)
            width, sizes = spans.slots.shape[1], spans.sizes
            known = known and spans.valid is None
            spans.mark(alive, False)
            reduction = spans.advance(choose(step, state))
            spans.mark(alive, True)
            reductions.append(reduction)
            if reduction.merge_to is not None and state.tokens is not None:
                x = _placed(x, spans, reduction.apply(state.tokens, sizes))
            known = known and reduction.valid is None
            for sample in spans.samples:
                lost[sample] += width - reduction.keep.shape[1]
        kept = None
        if not known or any(lost):
            kept = prompt.compact(alive[:, : prompt.length], lost if known else None)
            self.views.clear()  # layers to come attend to fewer tokens
        self.events.append(
            LayerEvent(
                stage=step.name,
                layer=layer,
                lengths_before=before,
                lengths_after=prompt.lengths(),
                seconds=now(x.device, self.timed) - started if self.timed else None,
                reductions=tuple(reductions) if self.recorded else None,
                site="language",
            )
        )
        return x, kept

    def _state(
        self,
        step: Step,
        layer: int,
        x: Tensor,
        spans: Spans,
        keys: Tensor | None,
        attention: Callable[[], Tensor] | None,
        text: Callable[[], TextRows] | None,
        number: int,
    ) -> LayerState:
        tokens, slots = spans.of(x), spans.slots
        return LayerState(
            keys=tokens[..., :0] if keys is None else spans.of(keys),
            tokens=tokens,
            sizes=spans.sizes,
            valid=spans.valid,
            positions=spans.places,
            grid=spans.grid,
            layer=layer,
            depth=self.depth,
            budget=step.budget(spans.length),
            attention=None if attention is None else partial(_rows, attention, spans, slots),
            group=number,
            text_rows=None if text is None else lambda: text().of(spans, slots),
        )

    def after(
        self, layer: PrunedLayer, prompt: Prompt, version: int, kept: Reduction | None, tap: KeyTap | None
    ) -> None:
        """Follow a pass in one layer's cache: `version` is the prompt's when the layer began."""
        if kept is not None and self.trims and tap is not None and tap.new is not None:
            layer.trim(kept.keep, kept.valid, before=layer.held - tap.new.shape[2])
            version = prompt.version
        if version:
            layer.history = (*layer.history, (self.passes, version))


def _rows(attention: Callable[[], Tensor], spans: Spans, slots: Tensor) -> Tensor:
    """Return [R, m]: of one row of attention per sample [B, M], the part that belongs to each span."""
    return spans.of(attention(), slots)


def _placed(x: Tensor, spans: Spans, values: Tensor) -> Tensor:
    """Return x [B, M, D] with values [R, m, D] at the slots of spans that are no padding."""
    x, samples, slots, valid = x.clone(), spans.sample.expand_as(spans.slots), spans.slots, spans.valid
    if valid is None:
        x[samples, slots] = values
    else:
        x[samples[valid], slots[valid]] = values[valid]
    return x
