"""What is observed of attention: what hooks catch, and a block that is watched for what comes after the tower."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saintprune import kernels
from saintprune.adapters.run import PrunedRun, TokenStream


@dataclass(eq=False)
class Observed:
    """What hooks caught of one attention layer.

    Attributes:
        scale: of the logits.
        query: [B, heads, 1, width], the query row (see `head_attention`).
        key: [B, heads, N, width].
        value: returns the values, [B, heads, N, width].
    """

    scale: float
    query: Tensor | None = None
    key: Tensor | None = None
    value: Callable[[], Tensor] | None = None

    def mean_keys(self) -> Tensor:
        """Return [B, N, C] float32: the keys averaged over heads."""
        assert self.key is not None
        return self.key.mean(1, dtype=torch.float32)  # (b, h, n, c) -> (b, n, c)

    def head_keys(self) -> Tensor:
        """Return [B, heads, N, C]: the keys, of the network's type."""
        assert self.key is not None
        return self.key

    def attention(self, stream: TokenStream) -> Tensor:
        """Recompute one row of attention, [B, N]: what the query row gives to each token, averaged over heads."""
        return self.head_attention(stream).mean(1)

    def head_attention(self, stream: TokenStream) -> Tensor:
        """Recompute one row of attention, [B, heads, N]: what the query row gives to each token in each head.

        The query row is the first token's where there is a special one, else the mean of all queries.
        """
        assert self.key is not None and self.query is not None
        if kernels.usable(self.key):
            logits = kernels.products(self.query, self.key)
        else:
            logits = (self.query.float() * self.key.float()).sum(-1)  # a product of one row is slow as a matrix product
        logits = logits[:, :, None] * self.scale  # (b, h, 1, n)
        mask = stream.attention_mask(torch.float32)
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
        return logits.softmax(-1)[:, :, 0]

    def value_norms(self) -> Tensor:
        """Return [B, heads, N] float32: the L2 norms of the values."""
        assert self.value is not None
        return self.value().float().norm(dim=-1)

    def forget(self) -> None:
        """Free the tensors: they hold the memory of the whole qkv projection."""
        self.query = self.key = self.value = None


@dataclass(eq=False)
class ObservedBlock(Observed):
    """Queries and keys of one block, with the bookkeeping of the tokens that entered it and of those that left it.

    Attributes:
        entered: the tokens that the block attended to; None before the first forward pass.
        left: the tokens that left it, fewer where the block is pruned; later blocks may prune on.
    """

    entered: TokenStream | None = None
    left: TokenStream | None = None

    def importance(self) -> Tensor:
        """Return [B, N]: what the query row gave to each token that left the block, averaged over heads; padding 0.

        The query row is that of `attention`. A token into which others merged counts as itself alone.
        """
        assert self.entered is not None and self.left is not None
        row = self.attention(self.entered)
        if self.left.positions is None or self.left.positions is self.entered.positions:
            return row  # the block dropped nothing
        special, patches = row[:, : self.left.prefix], row[:, self.left.prefix :]
        if self.entered.positions is not None:  # padding repeats some position, but got no attention: adding is safe
            grid = patches.new_zeros(len(patches), self.left.patches_at_entry)
            patches = grid.scatter_add(1, self.entered.positions, patches)
        row = torch.cat([special, patches.gather(1, self.left.positions)], dim=1)
        return row if self.left.valid is None else row.masked_fill(~self.left.valid, 0)

    def follow(self, undo: ExitStack, run: PrunedRun, block: nn.Module, key: nn.Module) -> None:
        """Hook the block and its keys' module, so that the bookkeeping of the two moments is kept."""

        def enter(module: nn.Module, args: Any, output: Tensor) -> None:
            self.entered = copy(run.current)

        def leave(module: nn.Module, args: Any, output: Tensor) -> None:
            self.left = copy(run.current)

        undo.callback(key.register_forward_hook(enter).remove)
        undo.callback(block.register_forward_hook(leave).remove)
