"""What a pruned forward pass carries from block to block, and what it tells afterwards."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from saintprune.errors import SaintpruneError
from saintprune.plan import Step
from saintprune.reduction import LayerState, Reduction

if TYPE_CHECKING:
    from saintprune.adapters.observed import Observed
    from saintprune.adapters.spread import Spreading


@dataclass(frozen=True, eq=False)
class LayerEvent:
    """One pruned layer of the latest forward pass.

    Attributes:
        stage: name of the plan's stage.
        layer: 0-based number of the block.
        lengths_before: tokens of each sample before, special ones included: a number, or [B] where samples differ.
        lengths_after: the same after.
        seconds: time to prepare the state and select, measured in a run with `timed=True`; else None.
        reductions: what was selected, in a run with `recorded=True`; else None. One, or in a decoder one for each
            length of image span.
        site: "vision", "projector" or "language".
    """

    stage: str
    layer: int
    lengths_before: int | Tensor
    lengths_after: int | Tensor
    seconds: float | None = None
    reductions: tuple[Reduction, ...] | None = None
    site: str = "vision"

    @property
    def tokens_before(self) -> float:
        """Mean tokens per sample before, special ones included."""
        return mean_length(self.lengths_before)

    @property
    def tokens_after(self) -> float:
        """Mean tokens per sample after, special ones included."""
        return mean_length(self.lengths_after)


@dataclass(eq=False)
class TokenStream:
    """The tokens' bookkeeping during one forward pass.

    Attributes:
        tokens: slots of a sample now, special tokens and padding included.
        patches_at_entry: patches that entered the network.
        positions: [B, P] int64, place of each patch in the image's grid; None while nothing was pruned.
        sizes: [B, N] float32, kept only where some method merges.
        valid: [B, N] bool; None while there is no padding.
        real: [T] int64, flat indices into B * N of the tokens that are no padding; None while there is no padding.
        bias_sizes: whether attention is proportional to sizes from here on.
        coherence: [B, N, 1] float32, how alike the patches of each token are (`adapters/spread.py`); None while no
            stage with `spread` has merged any. While an MLP runs without padding, [1, R, 1].
    """

    tokens: int
    prefix: int
    patches_at_entry: int
    grid: tuple[int, int] | None
    positions: Tensor | None = None
    sizes: Tensor | None = None
    valid: Tensor | None = None
    real: Tensor | None = None
    bias_sizes: bool = False
    coherence: Tensor | None = None

    def lengths(self) -> int | Tensor:
        """Return the real tokens of each sample: a number, or [B]."""
        return self.tokens if self.valid is None else self.valid.sum(1)

    def merged_at_most(self) -> int:
        """Return how many tokens of the batch can be made of others, which are fewer than those that are gone."""
        assert self.sizes is not None
        batch = len(self.sizes)
        left = batch * self.tokens if self.real is None else len(self.real)
        return batch * (self.prefix + self.patches_at_entry) - left

    def mean_of_real(self, x: Tensor) -> Tensor:
        """Return the mean over the tokens that are no padding: [B, heads, N, D] -> [B, heads, 1, D]."""
        if self.valid is None:
            return x.mean(2, keepdim=True)
        real = self.valid[:, None, :, None]
        return (x * real).sum(2, keepdim=True) / real.sum(2, keepdim=True)

    def attention_mask(self, dtype: torch.dtype) -> Tensor | None:
        """Return [B, 1, 1, N] for scaled-dot-product attention: bool (padding), float (log sizes), or None."""
        if self.sizes is not None and self.bias_sizes:
            bias = self.sizes.clamp_min(1e-12).log()
            bias = bias if self.valid is None else bias.masked_fill(~self.valid, -torch.inf)
            return _aligned(bias.to(dtype))[:, None, None]
        return None if self.valid is None else self.valid[:, None, None]

    def pool_weights(self, by_size: bool) -> Tensor | None:
        """Return [B, N] weights of the tokens in a pooling head; None where all weigh the same."""
        if by_size and self.sizes is not None:
            return self.sizes if self.valid is None else self.sizes * self.valid
        return None if self.valid is None else self.valid.float()

    def advance(self, reduction: Reduction) -> None:
        """Follow a reduction."""
        if self.sizes is not None:
            self.sizes = reduction.apply_sizes(self.sizes)
        kept = reduction.keep[:, self.prefix :] - self.prefix
        if reduction.valid is not None:
            kept = kept.clamp_min(0)  # padding may point anywhere
        self.positions = kept if self.positions is None else self.positions.gather(1, kept)
        self.valid = reduction.valid
        self.real = None if reduction.valid is None else reduction.valid.flatten().nonzero()[:, 0]
        self.tokens = reduction.keep.shape[1]


@dataclass(eq=False)
class PrunedRun:
    """The handle that `pruned()` gives: what the latest forward pass did.

    Attributes:
        depth: blocks of the network.
        timed: measure the seconds of each selection; it synchronises the device, so do not time the whole meanwhile.
        recorded: keep each layer's reduction in its event.
        spreads: what lets each block follow the spread of merged tokens; none where no stage asks for it, or the
            network cannot.
        events: one `LayerEvent` per pruned layer of the latest forward pass.
        stream: bookkeeping of the latest forward pass; `stream.positions` are the surviving patches.
        deferred: [B] bool, images of the latest forward pass that were answered anew; None where the plan does not
            defer.
        second: what the pass over those did; None where it does not prune.
        tokens_of_whole: tokens of an image before it shrank, special ones included; None where the plan resizes none.
        thread: that began the latest forward pass.
    """

    depth: int
    timed: bool = False
    recorded: bool = False
    spreads: Sequence[Spreading] = ()
    events: list[LayerEvent] = field(default_factory=list)
    stream: TokenStream | None = None
    deferred: Tensor | None = None
    second: PrunedRun | None = None
    tokens_of_whole: int | None = None
    thread: int | None = None

    @property
    def current(self) -> TokenStream:
        """The bookkeeping of the latest forward pass.

        Raises:
            SaintpruneError: there was none yet.
        """
        if self.stream is None:
            raise SaintpruneError("the network has made no forward pass inside this `with` block yet")
        return self.stream

    def begin(self, stream: TokenStream) -> None:
        """Start a forward pass."""
        self.stream, self.events, self.deferred, self.thread = stream, [], None, get_ident()

    @torch.no_grad()
    def select(self, step: Step, x: Tensor, layer: int, observed: Observed) -> Reduction:
        """Ask the step's method which tokens survive, and follow its answer.

        Args:
            step: the pruned layer.
            x: [B, N, D], tokens after attention.
            layer: 0-based number of the block.
            observed: what was seen of the layer's attention.
        """
        check_thread(self.thread)
        stream, stage = self.current, step.stage
        started = now(x.device, self.timed)
        state = LayerState(
            keys=observed.mean_keys() if "keys" in stage.method.reads else x[..., :0],
            prefix=stream.prefix,
            tokens=x,
            sizes=stream.sizes,
            valid=stream.valid,
            positions=stream.positions,
            grid=stream.grid,
            layer=layer,
            depth=self.depth,
            budget=step.budget(stream.patches_at_entry),
            attention=partial(observed.attention, stream),
            head_attention=partial(observed.head_attention, stream) if "importance" in stage.method.reads else None,
            keys_by_head=observed.head_keys if "keys" in stage.method.reads else None,
            values=observed.value_norms if "values" in stage.method.reads else None,
        )
        reduction = choose(step, state)
        seconds = now(x.device, self.timed) - started
        before = stream.lengths()
        stream.advance(reduction)
        self.events.append(
            LayerEvent(
                stage=step.name,
                layer=layer,
                lengths_before=before,
                lengths_after=stream.lengths(),
                seconds=seconds if self.timed else None,
                reductions=(reduction,) if self.recorded else None,
            )
        )
        return reduction

    @property
    def tokens_at_entry(self) -> float:
        """Tokens of a sample before the first block of the unpruned network, special ones included."""
        return float(self.tokens_of_whole or self._entered)

    @property
    def tokens_per_layer(self) -> list[float]:
        """Mean tokens per sample that leave each block, special ones and later passes of deferred images included."""
        tokens, after = float(self._entered), {event.layer: event.tokens_after for event in self.events}
        first = [(tokens := after.get(layer, tokens)) for layer in range(self.depth)]
        share = 0.0 if self.deferred is None else self.deferred.double().mean().item()
        if not share:
            return first
        again = [self.tokens_at_entry] * self.depth if self.second is None else self.second.tokens_per_layer
        return [once + share * twice for once, twice in zip(first, again, strict=True)]

    @property
    def looks(self) -> list[PrunedRun]:
        """This run and those of the pruned passes that its latest forward pass deferred images to."""
        again = self._again
        return [self] if again is None else [self, *again.looks]

    @property
    def times_deferred(self) -> Tensor | None:
        """[B] int64, how often each image of the latest pass was deferred; None where the plan does not defer."""
        if self.deferred is None:
            return None
        times, again = self.deferred.long(), self._again
        if again is not None and again.times_deferred is not None:
            times[self.deferred] += again.times_deferred
        return times

    @property
    def _again(self) -> PrunedRun | None:
        """The run of the pruned pass that the latest one deferred images to, if it did."""
        return self.second if self.deferred is not None and self.deferred.any() else None

    @property
    def _entered(self) -> int:
        """Tokens of a sample before the first block."""
        return self.current.patches_at_entry + self.current.prefix


def choose(step: Step, state: LayerState) -> Reduction:
    """Ask a step's method which tokens survive.

    Raises:
        SaintpruneError: the method cannot work on this layer; the message names the stage and the block.
    """
    kind = state.keys.device.type
    # without autocast, else bf16 products would decide, not float32 ones
    exact = torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
    with torch.no_grad(), exact:
        try:
            return step.stage.method.select(state)
        except ValueError as error:
            raise SaintpruneError(f"stages.{step.name}, block {state.layer}: {error}") from error


def check_thread(thread: int | None) -> None:
    """Check that a pass goes on in the thread that began the latest one; None where none has begun.

    Raises:
        SaintpruneError: it does not; the two would mix up their tokens.
    """
    if thread is not None and thread != get_ident():
        raise SaintpruneError(
            "another thread began a pass in this network before one had ended, which pruning cannot follow: let threads"
            " take turns, or give each a network of its own"
        )


def now(device: torch.device, timed: bool) -> float:
    """Return the clock in seconds, after the device's work is done where the run is timed."""
    if timed and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _aligned(bias: Tensor) -> Tensor:
    """Return [B, N] with rows that begin at multiples of 16 bytes on a GPU, whose attention is slower at others."""
    tokens = bias.shape[1]
    if not bias.is_cuda or tokens % 8 == 0:
        return bias
    return F.pad(bias, (0, 8 - tokens % 8))[:, :tokens]


def mean_length(lengths: int | Tensor) -> float:
    """Return the mean length of the samples, given a number or [B]."""
    return lengths.double().mean().item() if isinstance(lengths, Tensor) else float(lengths)
