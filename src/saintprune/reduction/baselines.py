"""The rows that every table needs: keep all, random, every k-th, average pool, top-k attention, replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from saintprune.reduction.interface import LayerState, Reducer, Reduction
from saintprune.reduction.survivors import keep_all, keep_masked, keep_top, required_budget


@dataclass(frozen=True)
class KeepAll(Reducer):
    """Prune nothing, on the same path as every method."""

    reads: ClassVar[frozenset[str]] = frozenset()
    decides: ClassVar[bool] = True

    def select(self, state: LayerState) -> Reduction:
        """Keep every token."""
        return keep_all(state)


@dataclass(frozen=True)
class RandomDrop(Reducer):
    """Keep a uniformly random subset of the patches; the number comes from the stage's schedule.

    The subset depends on the seed, the layer and the number of patches only, so that an image's result does not
    depend on its batch; take several seeds to average over subsets.

    Attributes:
        seed: of the draw.
    """

    seed: int = 0

    reads: ClassVar[frozenset[str]] = frozenset()

    def select(self, state: LayerState) -> Reduction:
        """Keep `state.budget` patches."""
        count = required_budget(state, "RandomDrop")
        generator = torch.Generator().manual_seed(self.seed * 1_000 + state.layer)
        scores = torch.rand(state.patches, generator=generator, dtype=torch.float32).to(
            state.keys.device, non_blocking=True
        )
        return keep_top(state, scores.expand(len(state.keys), -1), count)


@dataclass(frozen=True)
class Stride(Reducer):
    """Keep evenly spaced patches of the sequence; the number comes from the stage's schedule."""

    reads: ClassVar[frozenset[str]] = frozenset()

    def select(self, state: LayerState) -> Reduction:
        """Keep `state.budget` patches, at places floor((i + 1/2) n / budget)."""
        count = required_budget(state, "Stride")
        if count >= state.patches:
            return keep_all(state)
        place = torch.arange(state.patches, device=state.keys.device)
        total = state.patches if state.patch_valid is None else state.patch_valid.sum(1, keepdim=True)

        def chosen_before(j: Tensor) -> Tensor:  # how many i have (i + 1/2) n / budget < j
            return (2 * j * count + total - 1) // (2 * total)

        mask = (chosen_before(place + 1) > chosen_before(place)).expand(len(state.keys), -1)
        return keep_masked(state, mask, count)


@dataclass(frozen=True)
class TopKAttention(Reducer):
    """Keep the patches that the query row (class token) attends to most; the number comes from the schedule."""

    reads: ClassVar[frozenset[str]] = frozenset({"importance"})

    def select(self, state: LayerState) -> Reduction:
        """Keep the `state.budget` patches of largest attention."""
        count = required_budget(state, "TopKAttention")
        return keep_top(state, state.importance()[:, state.prefix :], count)


@dataclass(frozen=True)
class Replay(Reducer):
    """Answer with reductions that were recorded before: the same token schedule with selection for free.

    Attributes:
        reductions: those of each pruned layer, by the number of the block; more than one where it has several groups.
        merges: whether they merge.
    """

    reductions: Mapping[int, tuple[Reduction, ...]]
    merges: bool = False  # type: ignore[misc]  # of the recorded method, so a field here

    reads: ClassVar[frozenset[str]] = frozenset()
    decides: ClassVar[bool] = True

    def select(self, state: LayerState) -> Reduction:
        """Return the recorded reduction of this layer."""
        return self.reductions[state.layer][state.group]
