"""Seconds, memory and FLOPs, pruned beside unpruned: plain torch, inputs already on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from saintprune.adapters.base import ViTAdapter
from saintprune.adapters.run import LayerEvent, PrunedRun
from saintprune.evaluation.timing import BenchmarkSettings, pass_seconds, summed_up, time_in_turn
from saintprune.metrics.flops import count_flops
from saintprune.metrics.intervals import bootstrap, median
from saintprune.metrics.memory import peak_memory
from saintprune.plan import Plan
from saintprune.reduction import Reduction
from saintprune.reduction.baselines import Replay

if TYPE_CHECKING:  # transformers takes its time, and a timm network does without
    from saintprune.adapters.vlm import VLM

SELECTOR_PASSES = 6


@dataclass(frozen=True)
class Arm:
    """One way of running the network: throughput in images/s, 1e9 FLOPs per image, peak memory in MiB."""

    throughput: float
    gflops: float
    peak_memory_mib: float
    tokens_per_layer: list[float]


@dataclass(frozen=True)
class BenchmarkResult:
    """What was measured.

    Attributes:
        baseline: the untouched network.
        pruned: the network inside `pruned(plan)`.
        speedup: median over pairs of unpruned seconds / pruned seconds; of a plan that defers the harmonic mean.
        speedup_ci95: bootstrap interval of that.
        efficiency: median of ideal seconds / pruned seconds, where ideal repeats the recorded selections for free.
        selector_seconds: preparing states and selecting, summed over layers, median over passes, measured apart.
        selector_overhead: that as a share of the pruned pass.
        selector_share_of_baseline: that as a share of the unpruned pass.
        pairs: that were timed.
        batch_size: images per pass.
    """

    baseline: Arm
    pruned: Arm
    speedup: float
    speedup_ci95: tuple[float, float]
    efficiency: float
    selector_seconds: float
    selector_overhead: float
    selector_share_of_baseline: float
    pairs: int
    batch_size: int


class Benchmark:
    """Times one network unpruned, pruned, and pruned with selection for free, in turn.

    Args:
        adapter: of the network, which is on the device of the batches and in their precision.
        plan: what to prune.
        batches: each [B, C, H, W], all of one shape.
        settings: how long.
    """

    def __init__(self, adapter: ViTAdapter, plan: Plan, batches: Sequence[Tensor], settings: BenchmarkSettings) -> None:
        self.adapter, self.batches = adapter, batches
        self.settings = replace(settings, batches=len(batches))
        self.plan, self.ideals = plan, dict[int, Plan]()

    @torch.inference_mode()
    def run(self, advance: Callable[[float], None] = lambda share: None) -> BenchmarkResult:
        """Measure; `advance` is told the share of the work that is done, 0..1."""
        arms = {name: partial(self._seconds, name) for name in ("baseline", "pruned", "ideal")}
        times = time_in_turn(arms, self.settings, lambda share: advance(0.7 * share))
        ratios, typical = times["baseline"] / times["pruned"], summed_up(self.plan)
        selector = selector_seconds(self.adapter, self.plan, self.batches, self.adapter.net)
        advance(0.8)
        baseline = self._arm("baseline", times["baseline"])
        advance(0.9)
        pruned = self._arm("pruned", times["pruned"])
        advance(1.0)
        return BenchmarkResult(
            baseline=baseline,
            pruned=pruned,
            speedup=typical(ratios).item(),
            speedup_ci95=bootstrap(ratios, typical),
            efficiency=median(times["ideal"] / times["pruned"]).item(),
            selector_seconds=selector,
            selector_overhead=selector / median(times["pruned"]).item(),
            selector_share_of_baseline=selector / median(times["baseline"]).item(),
            pairs=len(ratios),
            batch_size=len(self.batches[0]),
        )

    def _seconds(self, arm: str, batch: int) -> float:
        return timed_pass(self.adapter, self._plan(arm, batch), self.batches[batch])

    def _arm(self, name: str, seconds: Tensor) -> Arm:
        """Sum up one arm: throughput as `summed_up`, FLOPs and tokens over the batches, memory of one pass."""
        flops, tokens = [], []
        # without pruning all batches, which are of one shape, cost the same
        for batch, images in enumerate(self.batches if name != "baseline" else self.batches[:1]):
            # for the baseline, an empty plan: it counts tokens and leaves every block's own forward to its work
            with self.adapter.pruned(self._plan(name, batch) or Plan()) as run:
                flops.append(count_flops(self.adapter.net, images)[0] / 1e9)
            tokens.append(run.tokens_per_layer)
        with _context(self.adapter, self._plan(name, 0)):
            memory = peak_memory(lambda: self.adapter.net(self.batches[0]), self.batches[0].device)
        images_per_second = len(self.batches[0]) / seconds
        typical = summed_up(self._plan(name, 0) or Plan())
        return Arm(
            throughput=typical(images_per_second).item(),
            gflops=sum(flops) / len(flops),
            peak_memory_mib=memory,
            tokens_per_layer=torch.tensor(tokens, dtype=torch.float64).mean(0).tolist(),
        )

    def _plan(self, arm: str, batch: int) -> Plan | None:
        """Return the plan of an arm for a batch; None is the baseline."""
        if arm != "ideal":
            return self.plan if arm == "pruned" else None
        if batch not in self.ideals:
            self.ideals[batch] = _replay(self.adapter, self.plan, self.batches[batch])
        return self.ideals[batch]


def timed_pass(adapter: ViTAdapter, plan: Plan | None, images: Tensor) -> float:
    """Time one pass over images [B, C, H, W], pruned by a plan; None is the network as nobody has touched it."""
    return pass_seconds(lambda: adapter.net(images), images.device, _context(adapter, plan))


def _context(adapter: ViTAdapter, plan: Plan | None) -> AbstractContextManager[object]:
    return nullcontext() if plan is None else adapter.pruned(plan)


@torch.inference_mode()
def selector_seconds(
    adapter: ViTAdapter | VLM, plan: Plan, batches: Sequence[Any], forward: Callable[[Any], object]
) -> float:
    """Return the selection's seconds of one pass: the median over a few passes of their sums over layers.

    Args:
        adapter: of the network.
        plan: what to prune.
        batches: whatever `forward` takes, [B, C, H, W] or the inputs of prompts.
        forward: makes one pass over a batch.
    """
    sums = []
    for number in range(SELECTOR_PASSES):
        with adapter.pruned(plan, timed=True) as run:
            forward(batches[number % len(batches)])
        looks = run.looks if isinstance(run, PrunedRun) else [run]
        sums.append(sum(event.seconds or 0.0 for look in looks for event in look.events))
    return median(torch.tensor(sums)).item()


@torch.inference_mode()
def _replay(adapter: ViTAdapter, plan: Plan, images: Tensor) -> Plan:
    """Return the plan that repeats, on these images, what the first pass of a plan selects, at no cost."""
    with adapter.pruned(plan, recorded=True) as run:
        adapter.net(images)
    return replayed(plan, run.events)


def replayed(plan: Plan, events: Sequence[LayerEvent]) -> Plan:
    """Return the plan that repeats what was recorded (`recorded=True`) on the same inputs, at no cost."""
    recorded: dict[str, dict[int, tuple[Reduction, ...]]] = {name: {} for name in plan.stages}
    for event in events:
        assert event.reductions is not None
        recorded[event.stage][event.layer] = event.reductions
    stages = {
        name: replace(stage, method=Replay(recorded[name], stage.method.merges)) for name, stage in plan.stages.items()
    }
    return replace(plan, stages=stages)
