"""Find the threshold, the schedule or another number of a plan that meets a target on unlabelled inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from saintprune.adapters.base import ViTAdapter
from saintprune.calibration.inputs import device_of, samples_in
from saintprune.calibration.targets import Measured, Target
from saintprune.errors import SaintpruneError
from saintprune.evaluation.timing import BenchmarkSettings, pass_seconds, summed_up, time_in_turn
from saintprune.metrics.flops import flops_of
from saintprune.plan import Plan, Schedule, Stage
from saintprune.reduction.baselines import KeepAll

if TYPE_CHECKING:  # transformers takes its time, and a timm network does without
    from saintprune.adapters.vlm import VLM
    from saintprune.calibration.inputs import Batch

DIGITS = 4
RESTARTS, SLACK = 2, 0.05  # of a search by the clock, whose result may be so far off
STEPS_OF_SIZE = 6  # of bisection: images have some dozens of patches a side


class OutOfReach(SaintpruneError):
    """No value of a pruning's knob meets the target; the message says how far pruning got."""


@dataclass(frozen=True)
class Knob:
    """The one number of a plan that calibration turns.

    A plan that resizes and defers is turned by `defer`, the margin: its first pass, which is to be cheap, stays as it
    is. One that only resizes is turned by `resize`. Both go from 1, which saves nothing, to nearly 0. Otherwise it is
    the method's threshold where it has one and no schedule, `1 - 2 strength²` (from 1, which drops least, to -1, and
    finest near 1, where the keys of real networks lie), or else the total drop of the schedule, `schedule.drop`, from
    0 to 1.

    Attributes:
        plan: whose number it is.
        stage: the stage that the number belongs to; None where it is the plan's own.
        name: of the number.
    """

    plan: Plan
    stage: str | None
    name: str

    @classmethod
    def of(cls, plan: Plan) -> Knob:
        """Return the knob of a plan.

        Raises:
            OutOfReach: the method has no number to turn.
            SaintpruneError: the plan has neither one stage nor a number of its own to turn.
        """
        if plan.resize is not None and (plan.defer is not None or not plan.stages):
            return cls(plan, None, "resize" if plan.defer is None else "defer")
        if len(plan.stages) != 1:
            raise SaintpruneError(f"calibration turns one number, but the plan has {len(plan.stages)} stages, not one")
        ((name, stage),) = plan.stages.items()
        if isinstance(stage.method, KeepAll):
            raise OutOfReach("KeepAll prunes nothing, so there is no number to calibrate: choose a pruning")
        by_threshold = stage.schedule is None and hasattr(stage.method, "threshold")
        return cls(plan, name, "method.threshold" if by_threshold else "schedule.drop")

    def value(self, strength: float) -> float:
        """Return the knob's value at a strength of 0 (prunes least) to 1 (most)."""
        if self.stage is None:
            return max(round(1 - strength, DIGITS), 10**-DIGITS)  # 0 would be no margin, and no image
        return round(1 - 2 * strength**2 if self.name == "method.threshold" else strength, DIGITS)

    def turned(self, strength: float) -> Plan:
        """Return the plan at a strength of 0 to 1."""
        return self.at(self.value(strength))

    def at(self, value: float) -> Plan:
        """Return the plan with the knob at a value; a correction stays, though it was fitted at another one."""
        if self.stage is None:
            return replace(self.plan, **{self.name: value}, calibrated=None)
        stage = self.plan.stages[self.stage]
        if self.name == "method.threshold":
            stage = replace(stage, method=replace(stage.method, threshold=value))  # type: ignore[call-arg]
        else:
            stage = replace(stage, schedule=Schedule.dropping(value, stage.schedule))
        return replace(self.plan, stages={self.stage: stage}, calibrated=None)


@dataclass(frozen=True)
class Calibrated:
    """What a calibration found: the plan, its knob's value, and what it does to the calibration images."""

    plan: Plan
    stage: str | None
    knob: str
    value: float
    measured: Measured
    images: int

    def as_dict(self) -> dict[str, object]:
        """Return all but the plan, for a record."""
        return {
            "stage": self.stage,
            "knob": self.knob,
            "value": self.value,
            "images": self.images,
            "measured": asdict(self.measured),
        }


class Calibrator:
    """Measures plans on a few batches and searches along a knob.

    Args:
        adapter: of the network, on the device of the batches.
        batches: unlabelled images, each [B, C, H, W], or whatever else `forward` takes.
        pairs: pairs of passes per timing, for speed-up targets.
        classifies: whether the network answers with classes; features cannot agree.
        forward: makes one pass over a batch; None is the adapter's network itself. Its output is logits
            [B, ..., classes], or has them as `logits`; anything else counts as features.
    """

    def __init__(
        self,
        adapter: ViTAdapter | VLM,
        batches: Sequence[Batch],
        pairs: int = 5,
        classifies: bool = True,
        forward: Callable[[Any], Any] | None = None,
    ) -> None:
        self.adapter, self.batches = adapter, batches
        self.forward: Callable[[Any], Any] = adapter.net if forward is None else forward
        self.settings = BenchmarkSettings(pairs=pairs, max_seconds=600.0, warmup=0, batches=len(batches))
        self.baseline = self._passes(None)
        self.classifies = classifies and self.baseline[2] is not None
        self.counted: dict[str, Measured] = {}  # several targets for one plan begin at the same places

    @torch.inference_mode()
    def search(
        self, plan: Plan, target: Target, steps: int = 10, advance: Callable[[float], None] = lambda share: None
    ) -> Calibrated:
        """Bisect the knob's strength: the least that meets a cost target, the most that keeps an agreement target.

        What a speed-up target came to is timed once more, and where it is off by more than a twentieth the search
        starts again on that side, twice at most.

        Args:
            plan: a plan with one stage, or one that resizes (see `Knob`).
            target: to meet.
            steps: of bisection; 10 settle a share to 0.001. For the size of images 6 at most.
            advance: is told the share of the work that is done, 0..1.

        Raises:
            OutOfReach: the strongest pruning falls short of the target.
            SaintpruneError: the plan or the network does not suit the target.
        """
        if target.kind == "agreement" and not self.classifies:
            raise SaintpruneError(f"calibration.target={target} needs answers, but this network gives features")
        knob = Knob.of(plan)
        steps = min(steps, STEPS_OF_SIZE) if knob.name == "resize" else steps
        most = self._most(knob)
        if not self._exceeds(knob.turned(most), target):
            if target.kind != "agreement":
                raise self._out_of_reach(knob, most, target)
            strength = most
        else:
            strength = self._bisect(knob, target, (0.0, most), steps, advance)
        measured = self.measure(knob.turned(strength), timed=True)
        if target.kind == "speedup":
            strength, measured = self._timed_again(knob, target, (strength, measured), most, steps, advance)
        advance(1.0)
        images = sum(samples_in(batch) for batch in self.batches)
        return Calibrated(knob.turned(strength), knob.stage, knob.name, knob.value(strength), measured, images)

    def _most(self, knob: Knob) -> float:
        """Return the strength that costs least: 1, but for a plan that defers, which beyond some strength is unsure of
        so many images that it saves nothing.
        """
        if knob.plan.defer is None or knob.name == "defer":
            return 1.0

        def cost(strength: float) -> float:
            return self.measure(knob.turned(strength), timed=False).flops

        best = min((step / 8 for step in range(1, 9)), key=cost)
        return min((best - 1 / 16, best, min(best + 1 / 16, 1.0)), key=cost)

    def _bisect(
        self, knob: Knob, target: Target, between: tuple[float, float], steps: int, advance: Callable[[float], None]
    ) -> float:
        """Return the strength that `search` looks for between one that is too weak and one that is strong enough."""
        weak, strong = between
        for step in range(steps):
            advance((step + 1) / (steps + 2))
            middle = (weak + strong) / 2
            if self._exceeds(knob.turned(middle), target):
                strong = middle
            else:
                weak = middle
        return weak if target.kind == "agreement" else strong

    def _timed_again(
        self,
        knob: Knob,
        target: Target,
        found: tuple[float, Measured],
        most: float,
        steps: int,
        advance: Callable[[float], None],
    ) -> tuple[float, Measured]:
        """Return the strength nearest to a speed-up, and its measurement, after new searches where one was led astray.

        Beside other work a single mistimed step sends a bisection to the wrong side for good.
        """
        tried = [found]
        for _ in range(RESTARTS):
            strength, measured = tried[-1]
            if _off(measured, target) <= SLACK:
                break
            assert measured.speedup is not None
            side = (strength, most) if measured.speedup < target.value else (0.0, strength)
            again = self._bisect(knob, target, side, steps, advance)
            tried.append((again, self.measure(knob.turned(again), timed=True)))
            if tried[-1][1].flops == measured.flops:
                break  # a coarse knob: the same pruning once more
        return min(tried, key=lambda one: _off(one[1], target))

    def _out_of_reach(self, knob: Knob, most: float, target: Target) -> OutOfReach:
        """Return the error of a target that the strongest pruning falls short of."""
        found, defer = self.measure(knob.turned(most), timed=True), knob.plan.defer
        where = ""
        if knob.stage is not None:
            where = f" on {self._layers(knob.plan.stages[knob.stage])} layers"
            less = "" if defer is None else f", defer less than defer={defer:g}"
            advice = f"Prune more layers{less} or ask for less"
        elif defer is not None:
            advice = "Prune more in the first pass (resize, schedule.drop) or ask for less"
        else:
            advice = "Ask for less"
        return OutOfReach(
            f"calibration.target={target} is out of reach: {knob.name}={knob.value(most):g}{where},"
            f" the strongest pruning, gets to {found}. {advice}"
        )

    def _layers(self, stage: Stage) -> int:
        """Return how many layers a stage prunes."""
        depth: int | None = self.adapter.depth
        if stage.site == "projector":
            depth = 1
        elif stage.site == "vision" and not isinstance(self.adapter, ViTAdapter):
            depth = self.adapter.vision_depth
        assert depth is not None  # the plan was checked
        return len(stage.resolve(depth))

    def _exceeds(self, plan: Plan, target: Target) -> bool:
        """Return whether a plan prunes far enough; for speed-ups only the time is measured."""
        if target.kind == "speedup":
            return self._speedup(plan) >= target.value
        return target.exceeded(self.measure(plan, timed=False))

    def measure(self, plan: Plan, timed: bool) -> Measured:
        """Return what a plan does to the batches; `timed` measures the speed-up as well."""
        if repr(plan) not in self.counted:
            flops, tokens, answers = self._passes(plan)
            self.counted[repr(plan)] = Measured(
                flops=flops / self.baseline[0],
                tokens=tokens / self.baseline[1],
                agreement=_agreement(answers, self.baseline[2]) if self.classifies else None,
            )
        return replace(self.counted[repr(plan)], speedup=self._speedup(plan) if timed else None)

    @torch.inference_mode()
    def _passes(self, plan: Plan | None) -> tuple[float, float, Tensor | None]:
        """Return FLOPs per sample, mean tokens per layer, and the answers; a plan of None is the untouched network."""
        flops, tokens, answers = 0.0, 0.0, []
        for batch in self.batches:
            # an empty plan only counts tokens
            with self.adapter.pruned(plan or Plan()) as run:
                counted, output = flops_of(lambda batch=batch: self.forward(batch))
            flops += counted / samples_in(batch) / len(self.batches)
            # of a vision-language model the images' tokens alone
            layers = getattr(run, "visual_tokens_per_layer", None) or run.tokens_per_layer
            tokens += sum(layers) / self.adapter.depth / len(self.batches)
            logits = getattr(output, "logits", output)
            if isinstance(logits, Tensor):
                answers.append(logits.argmax(-1).flatten())
        return flops, tokens, torch.cat(answers) if answers else None

    def _speedup(self, plan: Plan) -> float:
        def seconds(number: int, context: AbstractContextManager[object]) -> float:
            batch = self.batches[number]
            return pass_seconds(lambda: self.forward(batch), device_of(batch), context)

        arms = {
            "baseline": lambda number: seconds(number, nullcontext()),
            "pruned": lambda number: seconds(number, self.adapter.pruned(plan)),
        }
        times = time_in_turn(arms, self.settings)
        return summed_up(plan)(times["baseline"] / times["pruned"]).item()


def _off(measured: Measured, target: Target) -> float:
    """Return how far a measured speed-up is from the one asked for, as a share of it."""
    assert measured.speedup is not None
    return abs(measured.speedup / target.value - 1)


def _agreement(answers: Tensor | None, unpruned: Tensor | None) -> float | None:
    """Return the share of answers that are the same; None where there are none."""
    return None if answers is None or unpruned is None else (answers == unpruned).double().mean().item()
