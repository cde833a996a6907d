"""The bookkeeping of a prompt inside a decoder: where its image spans stand, and which tokens are left of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from saintprune.reduction import LayerState, Reduction
from saintprune.reduction.survivors import keep_masked


@dataclass(eq=False)
class Spans:
    """The image spans of one length, over all samples: the rows of a batch that a method sees.

    Attributes:
        samples: the sample in which each of the R spans stands.
        origin: [R, n] int64, places of its tokens in the prompt.
        places: [R, m] int64, which of the n are left, rising; padding, at the end, may point anywhere.
        valid: [R, m] bool, False marks padding; None means that there is none.
        sizes: [R, m] float32, kept only where some method merges.
    """

    samples: tuple[int, ...]
    origin: Tensor
    places: Tensor
    valid: Tensor | None = None
    sizes: Tensor | None = None

    @property
    def length(self) -> int:
        """Tokens of such a span before any pruning."""
        return self.origin.shape[1]

    @property
    def sample(self) -> Tensor:
        """[R, 1] int64, the samples."""
        return torch.tensor(self.samples, device=self.origin.device)[:, None]

    @property
    def grid(self) -> tuple[int, int] | None:
        """(rows, columns) where the span may be a square grid of patches."""
        side = math.isqrt(self.length)
        return (side, side) if side * side == self.length else None

    def advance(self, reduction: Reduction) -> Reduction:
        """Follow a reduction; return it with its survivors in the order in which they stand in the prompt."""
        reduction = in_order(reduction)
        if self.sizes is not None:
            self.sizes = reduction.apply_sizes(self.sizes)
        self.places = self.places.gather(1, reduction.keep)
        self.valid = reduction.valid
        return reduction


@dataclass(eq=False)
class Prompt:
    """The tokens of one forward pass of a decoder, and what is left of them.

    Attributes:
        batch: samples.
        entered: tokens of a sample when the pass began, padding included: T.
        length: slots of a sample now: M.
        device: of the tokens.
        valid: [B, M] bool, False marks padding; None means that all are real. Padding that pruning makes stands first.
        source: [B, M] int64, place in the prompt of each slot, T for padding; None while nothing was dropped.
        spans: the images.
        version: how often tokens were dropped.
        text: real tokens that belong to no image, mean per sample.
    """

    batch: int
    entered: int
    length: int
    device: torch.device
    valid: Tensor | None = None
    source: Tensor | None = None
    spans: list[Spans] = field(default_factory=list)
    version: int = 0
    text: float = 0.0

    def lengths(self) -> int | Tensor:
        """Return the real tokens of each sample: a number, or [B]."""
        return self.length if self.valid is None else self.valid.sum(1)

    def slots(self, spans: Spans) -> Tensor:
        """Return [R, m] int64: the slots in which the tokens of spans stand now; padding may point anywhere."""
        origin = spans.origin.gather(1, spans.places)
        if self.source is None:
            return origin
        place = torch.arange(self.length, device=self.device).expand(self.batch, -1)
        slot_of = place.new_zeros(self.batch, self.entered + 1).scatter_(1, self.source, place)
        return slot_of[spans.sample, origin]

    def alive(self) -> Tensor:
        """Return a new [B, M] bool: the slots that hold real tokens."""
        if self.valid is None:
            return torch.ones(self.batch, self.length, dtype=torch.bool, device=self.device)
        return self.valid.clone()

    def text_slots(self) -> Tensor:
        """Return a new [B, M] bool: the slots that hold real tokens of no image."""
        text = self.alive()
        for spans in self.spans:
            slots = self.slots(spans)
            samples = spans.sample.expand_as(slots)
            if spans.valid is None:
                text[samples, slots] = False
            else:
                text[samples[spans.valid], slots[spans.valid]] = False
        return text

    def compact(self, alive: Tensor, dropped: Sequence[int] | None) -> Reduction:
        """Leave only some slots; return the step, with padding at the front of samples that lose more than others.

        Args:
            alive: [B, M] bool, what stays; padding does not.
            dropped: slots that each sample loses, where that is known without asking the device.
        """
        if dropped is not None and self.valid is None and len(set(dropped)) == 1:
            counts = torch.full((self.batch,), self.length - dropped[0], device=self.device)
            width = shortest = self.length - dropped[0]
        else:
            counts = alive.sum(1)
            width, shortest = torch.stack([counts.max(), counts.min()]).tolist()
        # each survivor's slot is the number of survivors before it, after the padding; all others share a spare slot
        slot = torch.where(alive, alive.cumsum(1) - 1 + (width - counts)[:, None], width)
        place = torch.arange(self.length, device=self.device).expand(self.batch, -1)
        keep = place.new_zeros(self.batch, width + 1).scatter_(1, slot, place)[:, :width]
        valid = None
        if shortest < width:
            valid = torch.arange(width, device=self.device) >= (width - counts)[:, None]
        source = keep if self.source is None else self.source.gather(1, keep)
        self.source = source if valid is None else source.masked_fill(~valid, self.entered)
        self.valid, self.length, self.version = valid, width, self.version + 1
        return Reduction(keep, valid)

    def restored(self, x: Tensor) -> Tensor:
        """Put what is left back in its places: [B, M, D] -> [B, T, D], zeros where tokens were dropped."""
        if self.source is None:
            return x
        out = x.new_zeros(self.batch, self.entered + 1, x.shape[-1])
        return out.scatter_(1, self.source[..., None].expand_as(x), x)[:, : self.entered]


def find_spans(visual: Tensor, lengths: Sequence[int] | None, sized: bool) -> list[Spans]:
    """Return the image spans of a batch of prompts, grouped by their length.

    A span is a run of image tokens without text between them; two images without text between them are told apart by
    `lengths`.

    Args:
        visual: [B, T] bool, the image tokens.
        lengths: tokens of each image, in the order of the batch; None where they are not known.
        sized: keep how many tokens each token stands for.
    """
    sample, place = visual.nonzero().T.cpu()
    if not len(place):
        return []
    begins = torch.ones(len(place), dtype=torch.bool)
    begins[1:] = (sample[1:] != sample[:-1]) | (place[1:] != place[:-1] + 1)
    if lengths is not None:
        ends = torch.tensor([0, *lengths]).cumsum(0)
        begins[ends[ends < len(place)]] = True
    starts = begins.nonzero()[:, 0].tolist()
    groups: dict[int, list[int]] = defaultdict(list)
    for start, end in zip(starts, [*starts[1:], len(place)], strict=True):
        groups[end - start].append(start)
    found = []
    for length, members in groups.items():
        places = torch.arange(length, device=visual.device).expand(len(members), -1)
        origin = place[torch.tensor(members)].to(visual.device)[:, None] + places
        sizes = torch.ones(len(members), length, device=visual.device) if sized else None
        found.append(Spans(tuple(sample[members].tolist()), origin, places, sizes=sizes))
    return found


def without(spans: Spans, gone: Tensor) -> None:
    """Take out of untouched spans the tokens that an earlier site dropped: gone [B, T] bool."""
    left = ~gone[spans.sample, spans.origin]
    spans.advance(keep_masked(LayerState(keys=left.new_zeros(*left.shape, 0, dtype=torch.float32)), left))


def in_order(reduction: Reduction) -> Reduction:
    """Return a reduction whose survivors rise in each row, padding at the end."""
    keep, valid, merge_to = reduction.keep, reduction.valid, reduction.merge_to
    order = (keep if valid is None else keep.masked_fill(~valid, torch.iinfo(keep.dtype).max)).argsort(
        dim=1, stable=True
    )
    if merge_to is not None:
        place = torch.arange(order.shape[1], device=order.device).expand_as(order)
        slot = torch.empty_like(order).scatter_(1, order, place)
        merge_to = torch.where(merge_to < 0, merge_to, slot.gather(1, merge_to.clamp_min(0)))
    valid = None if valid is None else valid.gather(1, order)
    return replace(reduction, keep=keep.gather(1, order), valid=valid, merge_to=merge_to)
