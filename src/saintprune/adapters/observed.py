"""A block that is watched for what comes after the tower, whether or not it is pruned."""

from __future__ import annotations

from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saintprune.adapters.run import Observed, PrunedRun, TokenStream


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
