"""EViT: keep what the class token attends to, fuse the rest into one token (Liang et al., arXiv 2202.07800)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from saintprune.reduction.counts import at_most, real_patches, share_of
from saintprune.reduction.interface import LayerState, Reducer, Reduction
from saintprune.reduction.merging import fused
from saintprune.reduction.survivors import keep_all, keep_top


@dataclass(frozen=True)
class EViT(Reducer):
    """The patches of largest attention from the query row stay; the others become one token, weighted by attention.

    What is ours: the weights of the fused token are made to sum to 1, as otherwise a network that was not trained for
    it would see a token of small norm; the token stands where its most attended patch stood, is an ordinary patch for
    later layers, and counts as one patch in attention unless the stage says `proportional_attention: true`.

    Attributes:
        ratio: share of a layer's patches that stay as they are, 0..1, rounded up; the fused token comes on top. Under a
            schedule the fused token is one of the patches that are left.
        fuse: make one token of the others; false drops them.
    """

    ratio: float = 0.7
    fuse: bool = True

    reads: ClassVar[frozenset[str]] = frozenset({"importance"})
    merges: ClassVar[bool] = True
    decides: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio is {self.ratio}, but must be a share above 0, at most 1")

    def select(self, state: LayerState) -> Reduction:
        """Leave the share `ratio` and the fused token, or `state.budget` patches."""
        patches = real_patches(state)
        wanted = share_of(patches, self.ratio) + int(self.fuse) if state.budget is None else state.budget
        left = at_most(wanted, patches)
        if isinstance(left, int) and left >= state.patches:
            return keep_all(state)
        attention = state.importance()[:, state.prefix :]
        return fused(state, attention, left) if self.fuse else keep_top(state, attention, left)
