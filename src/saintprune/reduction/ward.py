"""Attention-weighted Ward merging: join the patches whose difference the class token would notice least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from saintprune.reduction.counts import at_least, at_most, real_patches, share_of
from saintprune.reduction.interface import LayerState, Reducer, Reduction
from saintprune.reduction.merging import merged
from saintprune.reduction.survivors import keep_all, keep_masked, leading, required_budget

TINY = 1e-9  # attention may be exactly 0


@dataclass(frozen=True)
class Ward(Reducer):
    """Patches merge by the least rise of attention-weighted variance, in as many rounds as the schedule asks for.

    Two groups of patches with attention masses `m_i`, `m_j` and mean keys at the cosine distance `d_ij` cost

        damage(i, j) = d_ij · w_i w_j / (w_i + w_j),   w = m ** power

    when they merge: Ward's criterion (1963), with the attention that the query row pays in place of the number of
    members. In each round the groups at even places choose among those at odd places the partner of least damage, and
    the `share` of all groups with the least damage merge: several rounds and not one matching, so that what is unlike
    everything else, or much attended to, stays by itself also where a layer loses more than half. A merged token is
    the attention-weighted mean of its patches. How this was found: docs/ward.md.

    Attributes:
        share: of the groups that merge in a round, above 0 and at most 0.5, rounded up.
        power: how much attention counts: 0 not at all, 1 in full.
    """

    share: float = 0.2
    power: float = 0.5

    reads: ClassVar[frozenset[str]] = frozenset({"keys", "importance"})
    merges: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 < self.share <= 0.5:
            raise ValueError(f"share is {self.share}, but must be above 0 and at most 0.5")
        if not 0 <= self.power <= 1:
            raise ValueError(f"power is {self.power}, but must lie in 0..1")

    def select(self, state: LayerState) -> Reduction:
        """Merge round by round until `state.budget` patches are left."""
        left = max(required_budget(state, "Ward"), 1)
        if left >= state.patches:
            return keep_all(state)
        attention = state.importance()
        groups, mass = _patches_alone(state), attention[:, state.prefix :]
        seats = torch.arange(state.patches, device=mass.device).expand_as(mass)  # of each group: the patch it stands at
        slot = seats  # of each patch: its group, -1 for padding
        while True:
            step = self._round(groups, mass, left)
            assert step.merge_to is not None
            slot = torch.where(slot < 0, -1, step.merge_to.gather(1, slot.clamp_min(0)))
            seats = seats.gather(1, step.keep)
            if seats.shape[1] <= left:
                return _with_special(state, seats, slot, step.valid, attention)
            mass = step.apply_sizes(mass)
            groups = LayerState(
                keys=F.normalize(step.apply(groups.keys, groups.sizes), dim=-1),
                sizes=step.apply_sizes(groups.sizes) if groups.sizes is not None else None,
                valid=step.valid,
            )

    def _round(self, groups: LayerState, mass: Tensor, left: int) -> Reduction:
        """Merge pairs of groups once: the share of them with the least damage, or as many as are still too many."""
        best, partner = self._links(groups, mass)
        count = real_patches(groups)
        pairs = at_most(at_most(at_least(count - left, 0), share_of(count, self.share)), count // 2)
        leaves = leading(best.argsort(dim=1, stable=True), pairs)  # (b, sources)
        mask = torch.ones_like(mass, dtype=torch.bool)
        mask[:, ::2] = ~leaves
        kept = keep_masked(groups, mask, groups.patches - pairs if isinstance(pairs, int) else None)
        target = torch.arange(groups.patches, device=mass.device).repeat(len(mass), 1)
        target[:, ::2] = torch.where(leaves, 2 * partner + 1, target[:, ::2])
        return merged(kept, target)

    def _links(self, groups: LayerState, mass: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least damage of each group at an even place and the number of its partner, both [B, A]."""
        distance = (1 - groups.keys[:, ::2] @ groups.keys[:, 1::2].mT).clamp_min(0)  # (b, sources, destinations)
        inverse = mass.clamp_min(TINY) ** -self.power
        damage = distance / (inverse[:, ::2, None] + inverse[:, None, 1::2])
        if groups.valid is not None:
            pair = groups.valid[:, ::2, None] & groups.valid[:, None, 1::2]
            damage = damage.masked_fill(~pair, torch.inf)
        return damage.min(-1)


def _patches_alone(state: LayerState) -> LayerState:
    """Return the patches as groups: unit keys whose dot product is the cosine averaged over heads [B, P, H C]."""
    keys = state.head_keys()[:, :, state.prefix :].float()
    norms = torch.linalg.vector_norm(keys, dim=-1, keepdim=True).clamp_min(TINY) * keys.shape[1] ** 0.5
    flat = (keys / norms).transpose(1, 2).flatten(2)  # (b, h, p, c) -> (b, p, h c)
    sizes = torch.ones_like(flat[..., 0]) if state.sizes is None else state.sizes[:, state.prefix :]
    return LayerState(keys=flat, sizes=sizes, valid=state.patch_valid)


def _with_special(state: LayerState, seats: Tensor, slot: Tensor, valid: Tensor | None, attention: Tensor) -> Reduction:
    """Return the reduction of the whole layer, given each group's seat [B, M] and each patch's group [B, P]."""
    special = torch.arange(state.prefix, device=seats.device).expand(len(seats), -1)
    if valid is not None:
        valid = torch.cat([valid.new_ones(special.shape), valid], dim=1)
    return Reduction(
        keep=torch.cat([special, seats + state.prefix], dim=1),
        valid=valid,
        merge_to=torch.cat([special, torch.where(slot < 0, -1, slot + state.prefix)], dim=1),
        weights=attention.float().clamp_min(TINY),
    )
