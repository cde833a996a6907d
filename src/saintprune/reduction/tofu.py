"""ToFu: ToMe's matching, dropping in early layers and MLERP in later ones (Kim et al., arXiv 2312.01026)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from saintprune.reduction.interface import LayerState, Reduction
from saintprune.reduction.tome import ToMe


@dataclass(frozen=True)
class ToFu(ToMe):
    """Sources link to destinations as in ToMe; the `r` best links fuse, in one of two ways.

    Early layers answer an average with something far from both tokens, so there the source is dropped and its
    destination stays as it is. Later layers are closer to linear: there the two merge by MLERP, the direction of their
    size-weighted mean with the larger of their norms, so that averaging does not shrink tokens.

    Deviations: a source that is dropped is gone, so the size of its destination does not grow; where the early layers
    end is one number instead of a measurement for each network.

    Attributes:
        r: tokens to fuse in a layer, >= 0; at most half of the patches.
        order: of the survivors; see `ToMe`.
        prune_layers: the first layers, which drop: a share of the network's blocks (float, 0..1) or a number (int).
    """

    prune_layers: int | float = 0.5

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if self.prune_layers < 0 or (isinstance(self.prune_layers, float) and self.prune_layers > 1):
            raise ValueError(
                f"prune_layers is {self.prune_layers}, but must be a number of layers (int, >= 0) or a share of them"
                " (float, 0..1)"
            )

    def select(self, state: LayerState) -> Reduction:
        """Drop or merge the sources of `r` links, or of as many as `state.budget` asks for."""
        reduction = super().select(state)
        if reduction.merge_to is None:
            return reduction
        if state.layer < self._first_merging(state.depth):
            return Reduction(reduction.keep, reduction.valid)
        return replace(reduction, norm="max")

    def _first_merging(self, depth: int) -> int:
        """Return the number of the first block that merges."""
        share = self.prune_layers
        return math.floor(share * depth + 1e-9) if isinstance(share, float) else share
