"""Attention-weighted Ward merging: join the patches whose difference the class token would notice least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from saintprune import kernels
from saintprune.reduction.counts import Count, at_least, at_most, real_patches, share_of
from saintprune.reduction.interface import LayerState, Reducer, Reduction
from saintprune.reduction.rows import summed
from saintprune.reduction.survivors import at_slots, keep_all, leading, required_budget

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
        attention = state.importance().float()
        groups, weights = LayerState(_unit_keys(state), valid=state.patch_valid), _masses_and_sizes(state, attention)
        seat = torch.arange(state.patches, device=attention.device).expand(len(attention), -1)  # where a group stands
        group = None  # of each patch, -1 for padding
        while True:
            joins, stays, lengths = self._round(groups, weights[..., 0], left)
            width = lengths if isinstance(lengths, int) else int(lengths.max())
            seat = at_slots(seat, stays, joins, width)
            group = joins if group is None else joins.gather(1, group.clamp_min(0)).where(group >= 0, -1)
            valid = None
            if isinstance(lengths, Tensor):
                valid = torch.arange(width, device=seat.device) < lengths[:, None]
            if width <= left:
                return _with_special(state, seat, group, valid, attention)
            joins = joins if valid is None else joins.where(joins >= 0, width)
            keys = F.normalize(summed(groups.keys, joins, width, weights[..., 1]), dim=-1)
            groups, weights = LayerState(keys, valid=valid), summed(weights, joins, width)

    def _round(self, groups: LayerState, mass: Tensor, left: int) -> tuple[Tensor, Tensor, Count]:
        """Merge pairs of groups once.

        Args:
            groups: as tokens without special ones; keys [B, G, C] of length 1, and which are no padding.
            mass: [B, G], attention that they receive.
            left: groups to leave after the last round.

        Returns:
            The new number of the group that each group joins, [B, G], -1 for padding; which of them stand where they
            stood, [B, G] bool; and how many there are now.
        """
        best, partner = self._links(groups, mass)
        count = real_patches(groups)
        pairs = at_most(at_most(at_least(count - left, 0), share_of(count, self.share)), count // 2)
        leaves = leading(best.argsort(dim=1, stable=True), pairs)  # (b, sources)
        valid = groups.valid
        stays = torch.ones_like(mass, dtype=torch.bool) if valid is None else valid.clone()
        stays[:, ::2] &= ~leaves
        joins = stays.cumsum(1) - 1
        joins[:, ::2] = torch.where(leaves, joins[:, 1::2].gather(1, partner), joins[:, ::2])
        return joins if valid is None else torch.where(valid, joins, -1), stays, count - pairs

    def _links(self, groups: LayerState, mass: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least damage of each group at an even place and the number of its partner, both [B, A]."""
        inverse = mass.clamp_min(TINY) ** -self.power
        if kernels.usable(groups.keys):
            return kernels.least_damage(groups.keys, inverse, groups.valid)
        distance = (1 - groups.keys[:, ::2] @ groups.keys[:, 1::2].mT).clamp_min_(0)  # (b, sources, destinations)
        damage = distance.div_(inverse[:, ::2, None] + inverse[:, None, 1::2])
        if groups.valid is not None:
            damage.masked_fill_(~(groups.valid[:, ::2, None] & groups.valid[:, None, 1::2]), torch.inf)
        return damage.min(-1)


def _unit_keys(state: LayerState) -> Tensor:
    """Return patches' keys of length 1 whose dot product is the cosine averaged over heads, [B, P, H C]."""
    keys = state.head_keys()[:, :, state.prefix :]
    if kernels.usable(keys):
        return kernels.unit_keys(keys)
    keys = keys.float()
    norms = torch.linalg.vector_norm(keys, dim=-1, keepdim=True).clamp_min(TINY) * keys.shape[1] ** 0.5
    return (keys / norms).transpose(1, 2).flatten(2)  # (b, h, p, c) -> (b, p, h c)


def _masses_and_sizes(state: LayerState, attention: Tensor) -> Tensor:
    """Return of each patch the attention that it receives and the patches that it stands for, [B, P, 2]."""
    mass = attention[:, state.prefix :]
    sizes = torch.ones_like(mass) if state.sizes is None else state.sizes[:, state.prefix :]
    return torch.stack([mass, sizes], dim=-1)


def _with_special(state: LayerState, seat: Tensor, group: Tensor, valid: Tensor | None, attention: Tensor) -> Reduction:
    """Return the reduction of the whole layer, given each group's seat [B, M] and each patch's group [B, P]."""
    special = torch.arange(state.prefix, device=seat.device).expand(len(seat), -1)
    slot = group + state.prefix
    if valid is not None:
        valid = torch.cat([valid.new_ones(special.shape), valid], dim=1)
        slot = slot.where(group >= 0, -1)
    return Reduction(
        keep=torch.cat([special, seat + state.prefix], dim=1),
        valid=valid,
        merge_to=torch.cat([special, slot], dim=1),
        weights=attention.clamp_min(TINY),
    )
