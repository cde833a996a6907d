"""Where in the depth to reduce: the exact cheapest allocation of a FLOP budget over the blocks, from measured damage.

Reducing a share x of the patches at block l alone changes the features by the damage D_l(x) = 1 - cosine, measured on
unlabelled images. Small changes in independent directions add in their squares, and 1 - cosine is half a square, so
the damage of a schedule is taken as the sum over its blocks. Among all schedules n_0 >= n_1 >= … of patches left, that
of

    least  sum_l D_l(1 - n_l / n_{l-1})   with   FLOPs(n) <= budget

is found by dynamic programming over (block, patches left) for a price of a FLOP, and by bisection of the price. The
last block of a network that reads its class token alone costs nothing to empty after its attention: `readout`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saintprune.adapters.base import ViTAdapter
from saintprune.analysis.sensitivity import drop_sensitivity
from saintprune.errors import SaintpruneError
from saintprune.metrics.flops import count_flops
from saintprune.plan import Plan, Schedule, Stage
from saintprune.reduction import Reducer
from saintprune.reduction.baselines import Stride

SHARES = (0.1, 0.25, 0.5)  # at which the damage is measured; in between it is interpolated
MOST = 0.5  # share that one block may lose: bipartite methods cannot take more
BISECTIONS = 40


@dataclass(frozen=True)
class Costs:
    """FLOPs per image of a network of equal blocks: fixed + sum over blocks of a n + b n² (attention) + c m (MLP).

    n are the tokens that enter a block, m those that enter its MLP, special tokens included.
    """

    fixed: float
    a: float
    b: float
    c: float

    @classmethod
    @torch.inference_mode()
    def of(cls, adapter: ViTAdapter, images: Tensor) -> Costs:
        """Count the FLOPs of five passes, and solve for the coefficients."""
        depth, prefix = adapter.depth, adapter.prefix
        with adapter.pruned(Plan()) as run:
            whole = count_flops(adapter.net, images)[0]
            patches = run.current.patches_at_entry

        def left_after(block: int, share: float) -> tuple[float, float]:
            plan = Plan.vision(Stride(), (block,), schedule=Schedule(keep=(max(1, round(share * patches)),)))
            with adapter.pruned(plan) as run:
                return count_flops(adapter.net, images)[0], run.tokens_per_layer[-1]

        late, few = left_after(depth - 1, 0.5)
        c = (whole - late) / (patches + prefix - few)
        early = [(whole, patches + prefix), *(left_after(0, share) for share in (0.66, 0.33))]
        # whole - F(n) is linear in n and n²: (a (L-1) + c L) n + b (L-1) n²
        counts = np.array([[1.0, n, n * n] for _, n in early])
        _, linear, square = np.linalg.solve(counts, np.array([flops for flops, _ in early]))
        b = square / (depth - 1)
        a = (linear - c * depth) / (depth - 1)
        n = patches + prefix
        return cls(whole - depth * (a * n + b * n * n + c * n), a, b, c)

    def total(self, entering: Sequence[float], leaving: Sequence[float]) -> float:
        """Return the FLOPs for the tokens that enter and leave each block."""
        blocks = zip(entering, leaving, strict=True)
        return self.fixed + sum(self.a * n + self.b * n * n + self.c * m for n, m in blocks)


def damages(
    adapter: ViTAdapter,
    batches: Iterable[Any],
    method: Reducer,
    advance: Callable[[float], None] = lambda share: None,
) -> dict[float, list[float]]:
    """Return share -> damage by block, of a method at one block at a time.

    Args:
        adapter: of the network.
        batches: unlabelled images; they are gone through once for each share.
        method: the reducer.
        advance: is told the share of the work that is done.
    """
    batches, found = list(batches), {}
    total = sum(len(batch) for batch in batches) * len(SHARES)
    for number, share in enumerate(SHARES):
        before = number * total / len(SHARES)
        rows = drop_sensitivity(
            adapter,
            batches,
            share=share,
            methods={"method": method},
            advance=lambda images, before=before: advance((before + images) / total),
        )
        found[share] = [1 - row.feature_cosine for row in rows]
    return found


def allocated(
    damage: Mapping[float, Sequence[float]],
    costs: Costs,
    patches: int,
    prefix: int,
    ratio: float,
    readout: bool = False,
) -> tuple[int, ...]:
    """Return the patches to leave after each block.

    Args:
        damage: share -> damage by block, see `damages`.
        costs: of the network.
        patches: that enter the network.
        prefix: special tokens.
        ratio: of the FLOPs of the unpruned network, 0..1, not to be exceeded.
        readout: the last block is emptied to one patch, at no damage.

    Raises:
        SaintpruneError: the ratio is out of reach.
    """
    depth = len(next(iter(damage.values())))
    whole = costs.total([patches + prefix] * depth, [patches + prefix] * depth)
    free = depth - 1 if readout else None
    harm = [_harm(damage, block, patches, block == free) for block in range(depth)]

    def schedule(price: float) -> tuple[int, ...]:
        return _cheapest(harm, costs, patches, prefix, price / whole)

    def spent(left: tuple[int, ...]) -> float:
        entering = [patches, *left[:-1]]
        return costs.total([n + prefix for n in entering], [n + prefix for n in left]) / whole

    low, high = 1e-6, 1e6
    if spent(schedule(high)) > ratio:
        raise SaintpruneError(
            f"{ratio:g} of the FLOPs is out of reach: half of the patches at every block leaves"
            f" {spent(schedule(high)):.3f}"
        )
    for _ in range(BISECTIONS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if spent(schedule(middle)) <= ratio else (middle, high)
    return schedule(high)


def plan_of(method: Reducer, left: Sequence[int], readout: bool, **stage: Any) -> Plan:
    """Return the plan of a schedule; with `readout` the last block is emptied by dropping, which merges nothing."""
    if not readout:
        return Plan.vision(method, range(len(left)), schedule=Schedule(keep=tuple(left)), **stage)
    last = len(left) - 1
    return Plan(
        {
            "vision": Stage("vision", tuple(range(last)), method, Schedule(keep=tuple(left[:-1])), **stage),
            "readout": Stage("vision", (last,), Stride(), Schedule(keep=(1,))),
        }
    )


def _harm(damage: Mapping[float, Sequence[float]], block: int, patches: int, free: bool) -> np.ndarray:
    """Return [P + 1, P + 1]: the damage of leaving m of n patches, indexed [n, m]; infinite where it cannot be."""
    n = np.arange(patches + 1)[:, None]
    m = np.arange(patches + 1)[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(n > 0, 1 - m / np.maximum(n, 1), 0)
    if free:
        return np.where((m >= 1) & (m <= n), 0.0, np.inf)
    shares = [0.0, *sorted(damage)]
    known = np.maximum.accumulate([0.0, *(max(0.0, damage[x][block]) for x in sorted(damage))])
    found = np.interp(share, shares, known)
    return np.where((m >= 1) & (m <= n) & (share <= MOST + 1e-9), found, np.inf)


def _cheapest(harm: Sequence[np.ndarray], costs: Costs, patches: int, prefix: int, price: float) -> tuple[int, ...]:
    """Return the schedule of least damage plus price times FLOPs, by dynamic programming from the last block."""
    tokens = np.arange(patches + 1) + prefix
    entering, leaving = costs.a * tokens + costs.b * tokens**2.0, costs.c * tokens
    ahead, choices = np.zeros(patches + 1), []
    for block in reversed(range(len(harm))):
        cost = harm[block] + price * (entering[:, None] + leaving[None, :]) + ahead[None, :]
        choices.append(cost.argmin(1))
        ahead = cost.min(1)
    left, n = [], patches
    for choice in reversed(choices):
        n = int(choice[n])
        left.append(n)
    return tuple(left)
