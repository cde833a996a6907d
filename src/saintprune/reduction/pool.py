"""Average pooling of the patch grid to a smaller grid: down-sampling, the humblest rival."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from saintprune.reduction.interface import LayerState, Reducer, Reduction
from saintprune.reduction.survivors import keep_all, required_budget


@dataclass(frozen=True)
class Pool(Reducer):
    """Average the patches that fall into each cell of a coarser grid, as adaptive average pooling does.

    The coarse grid is the largest with the image's aspect ratio that has at most `state.budget` cells; the budget
    comes from the stage's schedule. A cell is represented by its first patch.
    """

    reads: ClassVar[frozenset[str]] = frozenset()
    merges: ClassVar[bool] = True

    def select(self, state: LayerState) -> Reduction:
        """Pool to at most `state.budget` cells."""
        budget = required_budget(state, "Pool")
        if state.grid is None:
            raise ValueError("Pool needs the patch grid of the image, and this network does not tell it")
        if budget >= state.patches:
            return keep_all(state)
        coarse = _coarse(state.grid, budget)
        return _merge_cells(state, _cells(self._positions(state), state.grid, coarse), coarse[0] * coarse[1])

    @staticmethod
    def _positions(state: LayerState) -> Tensor:
        """Return [B, P] places in the grid."""
        if state.positions is not None:
            return state.positions
        return torch.arange(state.patches, device=state.keys.device).expand(len(state.keys), -1)


def _coarse(grid: tuple[int, int], budget: int) -> tuple[int, int]:
    """Return the largest (rows, columns) of about the grid's aspect ratio with at most `budget` cells."""
    rows, columns = grid
    scale = math.sqrt(max(budget, 1) / (rows * columns))
    coarse_rows = min(rows, max(1, math.floor(rows * scale)))
    return coarse_rows, min(columns, max(1, budget // coarse_rows))


def _cells(positions: Tensor, grid: tuple[int, int], coarse: tuple[int, int]) -> Tensor:
    """Return the coarse cell of each place of the fine grid."""
    row, column = positions // grid[1], positions % grid[1]
    return row * coarse[0] // grid[0] * coarse[1] + column * coarse[1] // grid[1]


def _merge_cells(state: LayerState, cell: Tensor, cells: int) -> Reduction:
    """Merge the patches of each cell [B, P] into the first of them; cells that are empty in a sample take no slot."""
    batch, tokens = state.keys.shape[:2]
    if state.patch_valid is not None:
        cell = torch.where(state.patch_valid, cell, cells)  # padding goes to a cell of its own, which is not there
    filled = torch.zeros(batch, cells + 1, dtype=torch.bool, device=cell.device).scatter_(1, cell, True)
    filled[:, cells] = False
    slot = (filled.cumsum(1) - 1).gather(1, cell)  # (b, p): number of the cell among those that are filled
    present = cell < cells
    slots = int(filled.sum(1).max())
    place = torch.arange(state.prefix, tokens, device=cell.device).expand_as(cell)
    place = torch.where(present, place, tokens)
    first = torch.full((batch, slots), tokens, device=cell.device).scatter_reduce_(1, slot, place, "amin")
    special = torch.arange(state.prefix, device=cell.device).expand(batch, -1)
    keep = torch.cat([special, first], 1)
    merge_to = torch.cat([special, torch.where(present, slot + state.prefix, -1)], 1)
    valid = keep < tokens
    return Reduction(keep.masked_fill(~valid, 0), None if valid.all() else valid, merge_to)
