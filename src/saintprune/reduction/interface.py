"""What a method sees (`LayerState`), what it answers (`Reduction`), and what it is (`Reducer`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from saintprune.reduction.rows import summed, taken


@dataclass(frozen=True, eq=False)
class LayerState:
    """The tokens of one layer, as much of them as the method asked for in `Reducer.reads`.

    `B` samples, `N` tokens of which the first `prefix` are special (class, distillation, registers) and
    `P = N - prefix` are patches. Padding, where there is any, stands at the end of a sample.

    Attributes:
        keys: [B, N, C] float32, attention keys averaged over heads; C = 0 where the method does not read them.
        prefix: number of special tokens; they stand first and always survive.
        tokens: [B, N, D], the tokens themselves, before they are reduced.
        sizes: [B, N] float, patches that a token stands for; None means 1 each.
        valid: [B, N] bool, False marks padding; None means no padding.
        positions: [B, P] int64, index of each patch in the image's row-major grid; None means 0..P-1.
        grid: (rows, columns) of the patch grid of the image, where the network has one.
        layer: 0-based number of the block.
        depth: number of blocks.
        budget: patches to leave, given by a `Schedule`; None leaves the number to the method.
        attention: a function that computes `importance`.
        head_attention: a function that computes `head_importance`; None where it is not observed.
        keys_by_head: a function that computes `head_keys`; None where heads are not told apart.
        values: a function that computes `value_norms`; None where they are not observed.
        group: which batch of the layer this is; a decoder hands image spans of each length to the method apart.
        relevances: a function that computes `relevance`; the projector of a vision-language model has one.
        text_rows: a function that computes `text_attention`; a decoder has one.
    """

    keys: Tensor
    prefix: int = 0
    tokens: Tensor | None = None
    sizes: Tensor | None = None
    valid: Tensor | None = None
    positions: Tensor | None = None
    grid: tuple[int, int] | None = None
    layer: int = 0
    depth: int = 1
    budget: int | None = None
    attention: Callable[[], Tensor] | None = None
    head_attention: Callable[[], Tensor] | None = None
    keys_by_head: Callable[[], Tensor] | None = None
    values: Callable[[], Tensor] | None = None
    group: int = 0
    relevances: Callable[[], Tensor] | None = None
    text_rows: Callable[[], tuple[Tensor, Tensor]] | None = None

    @property
    def patches(self) -> int:
        """Number of non-special slots P of a sample, padding included."""
        return self.keys.shape[1] - self.prefix

    @property
    def patch_valid(self) -> Tensor | None:
        """[B, P] bool, the part of `valid` that belongs to patches."""
        return None if self.valid is None else self.valid[:, self.prefix :]

    def importance(self) -> Tensor:
        """Return [B, N]: attention that each token receives from the query row, averaged over heads."""
        if self.attention is None:
            raise ValueError("importance was not recorded: name it in the method's `reads`")
        return self.attention()

    def head_importance(self) -> Tensor:
        """Return [B, H, N]: the same row of attention, each head apart."""
        if self.head_attention is None:
            raise ValueError(
                "attention per head is not observed here: name importance in the method's `reads`, and use it at"
                " site=vision, the one site that tells heads apart"
            )
        return self.head_attention()

    def head_keys(self) -> Tensor:
        """Return [B, H, N, C], of the network's type: keys of each head, or `keys` as one where none is told apart."""
        return self.keys[:, None] if self.keys_by_head is None else self.keys_by_head()

    def value_norms(self) -> Tensor:
        """Return [B, H, N]: the L2 norm of each token's value in each head."""
        if self.values is None:
            raise ValueError(
                "the values of attention are not observed here: name values in the method's `reads`, and use it at"
                " site=vision, the one site that sees them"
            )
        return self.values()

    def relevance(self) -> Tensor:
        """Return [B, N]: cosine of each token with the mean embedding of the text of its own prompt."""
        if self.relevances is None:
            raise ValueError(
                "relevance to the instruction is known between tower and decoder of a vision-language model alone: use"
                " site=projector, and name it in the method's `reads`"
            )
        return self.relevances()

    def text_attention(self) -> tuple[Tensor, Tensor]:
        """Return [B, T, N], what T text tokens behind the image give to its tokens, averaged over heads, and [B, T]
        bool, which of the T are there.

        A row is a part of its token's softmax over everything that it attends to, so that it sums to less than 1.
        """
        if self.text_rows is None:
            raise ValueError(
                "rows of text are known inside a decoder alone: use site=language, and name text_attention in the"
                " method's `reads`"
            )
        return self.text_rows()


@dataclass(frozen=True, eq=False)
class Reduction:
    """Which tokens survive, in which order, and where the others go.

    Attributes:
        keep: [B, M] int64, indices into 0..N-1 of the survivors, special tokens first.
        valid: [B, M] bool, False marks slots that only pad a sample to M; None means that all are real.
        merge_to: [B, N] int64, the slot 0..M-1 that each input token joins, -1 for none; None means that tokens
            outside `keep` are dropped.
        weights: [B, N] float, weight of each token in the average of those that merge; None means its size. How many
            patches a token stands for does not depend on it.
        norm: length of a merged token: "mean", that of the average; "max", that of the longest token that went in
            (MLERP, arXiv 2312.01026: the direction of the average, the largest norm).
    """

    keep: Tensor
    valid: Tensor | None = None
    merge_to: Tensor | None = None
    weights: Tensor | None = None
    norm: Literal["mean", "max"] = "mean"

    def apply(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return the tokens that are left: gathered, or averaged by weight or size where they merge.

        Args:
            x: [B, N, D].
            sizes: [B, N], patches per token; None means 1 each. Only merging without `weights` reads it.

        Returns:
            [B, M, D] of the dtype of `x`.
        """
        mean = self.averaged(x, sizes)
        if self.merge_to is not None and self.norm == "max":
            mean = mean * (self._longest(x) / mean.norm(dim=-1).clamp_min(1e-12))[..., None]
        return mean.to(x.dtype)

    def averaged(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return what `apply` does, with averages that are as long as averages are, and in float32 if need be."""
        if self.merge_to is None:
            return taken(self.keep, x)[0]
        share = self._shares_by_weight if self.weights is not None else self._shares(sizes)
        return summed(x, self._joins, self.keep.shape[1], share)

    def apply_sizes(self, sizes: Tensor) -> Tensor:
        """Return [B, M]: patches that each survivor stands for, given [B, N] before."""
        if self.merge_to is None:
            return sizes.gather(1, self.keep)
        return self._summed(sizes)[:, :-1]

    @cached_property
    def _joins(self) -> Tensor:
        """[B, N] int64: the slot that each token joins; a spare one, M, takes those that join none."""
        assert self.merge_to is not None
        return torch.where(self.merge_to < 0, self.keep.shape[1], self.merge_to)

    @cached_property
    def _shares_by_weight(self) -> Tensor:
        return self._shares(self.weights)

    def _shares(self, weights: Tensor | None) -> Tensor:
        """Return [B, N]: the share of each token in the average of its slot, by weights [B, N]; None means 1 each."""
        weights = torch.ones_like(self._joins, dtype=torch.float32) if weights is None else weights
        return weights / self._summed(weights).clamp_min(1e-12).gather(1, self._joins)

    def _summed(self, values: Tensor) -> Tensor:
        """Return [B, M + 1]: the sums of values [B, N] by slot, the spare one included."""
        batch, slots = self.keep.shape
        return values.new_zeros(batch, slots + 1).scatter_add_(1, self._joins, values)

    def _longest(self, x: Tensor) -> Tensor:
        """Return the largest norm of the tokens [B, N, D] that join each slot -> [B, M]."""
        batch, slots = self.keep.shape
        norms = x.float().norm(dim=-1)
        return norms.new_zeros(batch, slots + 1).scatter_reduce_(1, self._joins, norms, "amax")[:, :slots]


class Reducer(ABC):
    """A method: a frozen dataclass whose `select` maps a `LayerState` to a `Reduction`.

    Attributes:
        reads: what of the layer must be observed for it: any of "keys", "importance" (both whole or, in towers,
            per head), "values" (in towers), "relevance" (at the projector) and "text_attention" (in a decoder).
        merges: whether its reductions carry `merge_to`, so that sizes and proportional attention matter.
        decides: whether it finds the number of tokens by itself; if not, the stage needs a `Schedule`.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"keys"})
    merges: ClassVar[bool] = False
    decides: ClassVar[bool] = False

    @abstractmethod
    def select(self, state: LayerState) -> Reduction:
        """Choose the survivors of one layer; `state.budget`, where given, is how many patches to leave."""
