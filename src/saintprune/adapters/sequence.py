"""The bookkeeping of a prompt inside a decoder: where its image spans stand, and which tokens are left of them."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from saintprune.reduction import LayerState, Reduction
from saintprune.reduction.survivors import at_slots, keep_masked, places_of


@dataclass(eq=False)
class Spans:
    """The image spans of one length, over all samples: the rows of a batch that a method sees.

    Attributes:
        samples: the sample in which each of the R spans stands.
        origin: [R, n] int64, places of its tokens in the prompt.
        places: [R, m] int64, which of the n are left, rising; padding, at the end, may point anywhere.
        valid: [R, m] bool, False marks padding; None means that there is none.
        sizes: [R, m] float32, kept only where some method merges.
        slots: [R, m] int64, where the tokens that are left stand in the pass now; padding may point anywhere.
    """

    samples: tuple[int, ...]
    origin: Tensor
    places: Tensor
    valid: Tensor | None = None
    sizes: Tensor | None = None
    slots: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Begin where the tokens stand in the prompt."""
        self.slots = self.origin

    @property
    def length(self) -> int:
        """Tokens of such a span before any pruning."""
        return self.origin.shape[1]

    @cached_property
    def sample(self) -> Tensor:
        """[R, 1] int64, the samples."""
        return torch.tensor(self.samples).to(self.origin.device, non_blocking=True)[:, None]

    @cached_property
    def aligned(self) -> bool:
        """Whether span r stands in sample r."""
        return self.samples == tuple(range(len(self.samples)))

    @property
    def grid(self) -> tuple[int, int] | None:
        """(rows, columns) where the span may be a square grid of patches."""
        side = math.isqrt(self.length)
        return (side, side) if side * side == self.length else None

    def of(self, x: Tensor, slots: Tensor | None = None) -> Tensor:
        """Return [R, m, ...]: of x [B, M, ...], what stands at the spans' slots, or at others [R, m]."""
        return x[self.sample, self.slots if slots is None else slots]

    def mark(self, flags: Tensor, value: bool) -> None:
        """Set flags [B, M + 1] bool at the slots; the last place takes what is set for padding."""
        slots = self.slots if self.valid is None else self.slots.masked_fill(~self.valid, flags.shape[1] - 1)
        if self.aligned:
            flags.scatter_(1, slots, value)
        else:
            flags[self.sample, slots] = value

    def advance(self, reduction: Reduction) -> Reduction:
        """Follow a reduction; return it with its survivors in the order in which they stand in the prompt."""
        reduction = in_order(reduction)
        if self.sizes is not None:
            self.sizes = reduction.apply_sizes(self.sizes)
        self.places = self.places.gather(1, reduction.keep)
        self.slots = self.slots.gather(1, reduction.keep)
        self.valid = reduction.valid
        return reduction

    def move(self, slot: Tensor) -> None:
        """Follow tokens to new slots [B, M], given for each slot before; those that are gone have any number."""
        slots = slot.gather(1, self.slots) if self.aligned else self.of(slot)
        self.slots = slots if self.valid is None else slots.clamp_min(0)


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

    def alive(self, spare: int = 0) -> Tensor:
        """Return a new [B, M + spare] bool: the slots that hold real tokens."""
        if self.valid is None:
            return torch.ones(self.batch, self.length + spare, dtype=torch.bool, device=self.device)
        return F.pad(self.valid, (0, spare))

    def text_slots(self) -> Tensor:
        """Return a new [B, M] bool: the slots that hold real tokens of no image."""
        text = self.alive(spare=1)
        for spans in self.spans:
            spans.mark(text, False)
        return text[:, : self.length]

    def compact(self, alive: Tensor, dropped: Sequence[int] | None) -> Reduction:
        """Leave only some slots; return the step, with padding at the front of samples that lose more than others.

        Args:
            alive: [B, M] bool, what stays; padding does not.
            dropped: slots that each sample loses, where that is known without asking the device.
        """
        if dropped is None or self.valid is not None:
            counts = alive.sum(1).tolist()
        else:
            counts = [self.length - lost for lost in dropped]
        width, valid = max(counts), None
        slot = alive.cumsum(1).sub_(1)  # the number of survivors before it, …
        if min(counts) == width:
            keep = places_of(alive, width)
        else:  # … after the padding; all others share a spare slot
            padding = torch.tensor([width - count for count in counts]).to(self.device, non_blocking=True)[:, None]
            slot = slot.add_(padding)
            keep = at_slots(torch.arange(self.length, device=self.device).expand_as(slot), alive, slot, width)
            valid = torch.arange(width, device=self.device) >= padding
        for spans in self.spans:
            spans.move(slot)
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


def find_spans(
    visual: Tensor, lengths: Sequence[int] | None, sized: bool, device: torch.device | None = None
) -> list[Spans]:
    """Return the image spans of a batch of prompts, grouped by their length.

    A span is a run of image tokens without text between them; two images without text between them are told apart by
    `lengths`.

    Args:
        visual: [B, T] bool, the image tokens; best on the CPU, as their places are read.
        lengths: tokens of each image, in the order of the batch; None where they are not known.
        sized: keep how many tokens each token stands for.
        device: of the tokens; None means that of `visual`.
    """
    device = visual.device if device is None else device
    edges = F.pad(visual, (1, 1)).diff(dim=1).nonzero().tolist()  # (sample, place) of each beginning and end in turn
    limits, seen, groups = sorted(set(accumulate(lengths or ()))), 0, defaultdict[int, list[tuple[int, int]]](list)
    for (sample, start), (_, end) in zip(edges[::2], edges[1::2], strict=True):
        inside = limits[bisect_right(limits, seen) : bisect_left(limits, seen + end - start)]
        ends = [limit - seen + start for limit in inside]  # of images that others follow at once
        for begin, stop in zip([start, *ends], [*ends, end], strict=True):
            groups[stop - begin].append((sample, begin))
        seen += end - start
    found = []
    for length, members in groups.items():
        begins = torch.tensor([begin for _, begin in members]).to(device, non_blocking=True)[:, None]
        places = torch.arange(length, device=device).expand(len(members), -1)
        sizes = torch.ones(len(members), length, dtype=torch.float32, device=device) if sized else None
        found.append(Spans(tuple(sample for sample, _ in members), begins + places, places, sizes=sizes))
    return found


def without(prompt: Prompt, left: Sequence[Tensor]) -> Reduction | None:
    """Take out of untouched prompts the image tokens that an earlier site dropped.

    Args:
        prompt: whose spans are whole.
        left: [R, n] bool of each element of its spans: the tokens to leave.

    Returns:
        The step; None where all are left.
    """
    if not left:
        return None
    counts = iter(torch.cat([mask.sum(1) for mask in left]).tolist())
    alive, lost = prompt.alive(spare=1), [0] * prompt.batch
    for spans, mask in zip(prompt.spans, left, strict=True):
        own = [next(counts) for _ in spans.samples]
        for sample, count in zip(spans.samples, own, strict=True):
            lost[sample] += spans.length - count
        spans.mark(alive, False)
        state = LayerState(keys=mask.new_zeros(*mask.shape, 0, dtype=torch.float32))
        spans.advance(keep_masked(state, mask, own[0] if len(set(own)) == 1 else None))
        spans.mark(alive, True)
    return prompt.compact(alive[:, : prompt.length], lost) if any(lost) else None


def in_order(reduction: Reduction) -> Reduction:
    """Return a reduction whose survivors rise in each row, padding at the end."""
    keep, valid, merge_to = reduction.keep, reduction.valid, reduction.merge_to
    if valid is None and merge_to is None:
        return replace(reduction, keep=keep.sort(dim=1).values)
    order = (keep if valid is None else keep.masked_fill(~valid, torch.iinfo(keep.dtype).max)).argsort(
        dim=1, stable=True
    )
    if merge_to is not None:
        place = torch.arange(order.shape[1], device=order.device).expand_as(order)
        slot = torch.empty_like(order).scatter_(1, order, place)
        merge_to = torch.where(merge_to < 0, merge_to, slot.gather(1, merge_to.clamp_min(0)))
    valid = None if valid is None else valid.gather(1, order)
    return replace(reduction, keep=keep.gather(1, order), valid=valid, merge_to=merge_to)
