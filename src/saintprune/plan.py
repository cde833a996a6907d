"""A pruning plan: which method works on which layers of which part of a model, and how many tokens it leaves."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any

from saintprune.correction import Correction
from saintprune.errors import SaintpruneError
from saintprune.reduction import Reducer
from saintprune.reduction.baselines import KeepAll

SITES = ("vision", "projector", "language")
END = r"(-?\d+|0?\.\d+)?"  # of a slice: a block number, or a share of the depth
SLICE = rf"{END}:{END}(:[1-9]\d*)?"
NAMED = ("aligner", "explorer", "aggregator")  # layers by the stage that `saintprune.analysis` found them in


@dataclass(frozen=True)
class Schedule:
    """How many patches each pruned layer leaves; it drives any method, so that methods can be set beside each other
    at equal cost. Give exactly one of `drop` and `keep`.

    Attributes:
        drop: share of the patches that is gone after the last pruned layer, 0..1; the pruned layers share it evenly,
            or as `steepness` says.
        keep: patches that the first, second, … pruned layer leaves: shares (floats, 0..1) or numbers (ints).
        steepness: only with `drop`, above 0: the share that is left falls along the log-logistic curve
            `(1 - drop) / (1 - drop + drop * t ** steepness)`, where t goes from 0 to 1 over the pruned layers. Above 1
            it is an S: little goes at first, most where half are left, wherever the depth of that is.

    Shares are of the patches that the unpruned network has; in a decoder, of the tokens that an image has unpruned.
    """

    drop: float | None = None
    keep: tuple[float | int, ...] | None = None
    steepness: float | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if (self.drop is None) == (self.keep is None):
            raise ValueError("a schedule needs exactly one of `drop` and `keep`")
        if self.drop is not None and not 0 <= self.drop <= 1:
            raise ValueError(f"schedule.drop is {self.drop}, but a share lies in 0..1")
        if self.steepness is not None and (self.drop is None or not 0 < self.steepness < math.inf):
            raise ValueError(f"schedule.steepness is {self.steepness}, but must be above 0, and goes with `drop` alone")
        if self.keep is not None:
            object.__setattr__(self, "keep", tuple(self.keep))
            for value in self.keep:
                if value < 0 or (isinstance(value, float) and value > 1):
                    raise ValueError(
                        f"schedule.keep has {value}, but numbers of patches (ints) are >= 0 and shares (floats) lie in"
                        " 0..1"
                    )

    @classmethod
    def dropping(cls, drop: float, like: Schedule | None) -> Schedule:
        """Return the schedule that drops a share in the shape of another, or evenly where there is none."""
        return cls(drop=drop, steepness=None if like is None else like.steepness)

    def budget(self, step: int, steps: int, patches: int) -> int:
        """Return the patches to leave, at least one.

        Args:
            step: which of the pruned layers, from 0.
            steps: how many layers are pruned.
            patches: number that the unpruned network has.
        """
        if self.keep is not None:
            value = self.keep[step]
            return max(1, round(value * patches) if isinstance(value, float) else value)
        assert self.drop is not None
        if self.steepness is not None:
            left, gone = 1 - self.drop, self.drop * ((step + 1) / steps) ** self.steepness
            return max(1, round(left / (left + gone) * patches)) if left else 1
        return max(1, patches - round(self.drop * patches * (step + 1) / steps))


@dataclass(frozen=True)
class Stage:
    """One method at one site.

    Attributes:
        site: "vision" (the tower), "projector" (between tower and decoder, one place) or "language" (the decoder).
        layers: "all", "first_half", a slice such as "7:17", "0.25:" or, for every second block, "::2", or a list: block
            numbers (ints, 0-based) or shares of the depth (with a decimal point, between 0 and 1), where f is block
            floor(f * depth), so that a plan fits any depth; or one of `NAMED`, which `Plan.located` must turn into
            block numbers before the plan is used.
        method: the reducer.
        schedule: tokens to leave per pruned layer; required by methods that rank but do not decide how many.
        proportional_attention: let a merged token be attended to as the patches it stands for; merging in a tower only.
        spread: let norms and activations act on a merged token as they would, in the mean, on its patches, which needs
            to be told how far they lie apart (docs/ward.md); merging in a tower only.
    """

    site: str
    layers: str | Sequence[int | float]
    method: Reducer
    schedule: Schedule | None = None
    proportional_attention: bool = True
    spread: bool = False

    def __post_init__(self) -> None:
        """Check the values that can be checked without a model."""
        if self.site not in SITES:
            raise ValueError(f"site is {self.site!r}, but must be one of {', '.join(SITES)}")
        if self.schedule is not None and not isinstance(self.schedule, Schedule):
            raise ValueError(f"schedule is {self.schedule!r}, but must be a schedule, such as Schedule(drop=0.5)")
        if not isinstance(self.layers, str):
            places: tuple[Any, ...] = tuple(self.layers)
            for place in places:
                if isinstance(place, bool) or not isinstance(place, Real):
                    raise ValueError(f"layers has {place!r}, but a list holds numbers of blocks or shares of the depth")
                if not isinstance(place, Integral) and not 0 < float(place) < 1:
                    raise ValueError(
                        f"layers has {place}, but floats are shares of the depth, between 0 and 1; blocks are ints"
                    )
            plain = (int(place) if isinstance(place, Integral) else float(place) for place in places)  # numpy's, too
            object.__setattr__(self, "layers", tuple(plain))
        elif self.layers not in ("all", "first_half", *NAMED) and not re.fullmatch(SLICE, self.layers):
            raise ValueError(
                f"layers is {self.layers!r}, but must be a list of block numbers, 'all', 'first_half', a slice such as"
                f" '7:17' or '::2', or a stage: {', '.join(NAMED)}"
            )
        if self.spread and not (self.site == "vision" and self.method.merges):
            raise ValueError(
                f"spread is true, but nothing merges here: it is for merging methods at site=vision, not for"
                f" {type(self.method).__name__} at site={self.site}"
            )
        if self.schedule is None and not self.method.decides:
            raise ValueError(
                f"{type(self.method).__name__} ranks tokens but does not decide how many to keep: give the stage a"
                " schedule, for example schedule.drop=0.5"
            )

    def resolve(self, depth: int, name: str = "stage") -> tuple[int, ...]:
        """Return the block numbers in a network of `depth` blocks; `name` is for the error message."""
        numbers = self._numbers(depth, name)
        if not numbers:
            raise SaintpruneError(f"{name}.layers is {self.layers!r}, which selects none of {depth} blocks")
        return numbers

    def _numbers(self, depth: int, name: str) -> tuple[int, ...]:
        if self.layers == "all":
            return tuple(range(depth))
        if self.layers == "first_half":
            return tuple(range(depth // 2))
        if self.layers in NAMED:
            raise SaintpruneError(
                f"{name}.layers is {self.layers!r}, which only an analysis of the model can turn into block numbers:"
                " run task=analyze and use run.py, or Plan.located with what saintprune.analysis.stage_file reads"
            )
        if isinstance(self.layers, str):
            *ends, step = f"{self.layers}:1".split(":")[:3]  # the step is 1 where none is given
            first, last = (_end(end, depth) for end in ends)
            for end in (first, last):
                if end is not None and abs(end) > depth:
                    raise SaintpruneError(f"{name}.layers is {self.layers!r}, but the network has {depth} blocks")
            return tuple(range(depth))[first : last : int(step)]
        numbers = [_block(place, depth) for place in self.layers]
        for number in numbers:
            if not 0 <= number < depth:
                raise SaintpruneError(
                    f"{name}.layers has {number}, but the network has {depth} blocks (0..{depth - 1})"
                )
        return tuple(sorted(set(numbers)))


@dataclass(frozen=True)
class Plan:
    """Named stages. An empty plan prunes nothing.

    Attributes:
        stages: by name; two stages of one site must not share a layer.
        defer: of a classifier of images: those for which the probabilities of the two likeliest classes lie less than
            this apart (0..1) are answered anew (docs/cascade.md); None takes the first answer.
        second: with `defer`, the plan by which those are answered, which may defer in its turn; None is no pruning.
        resize: share of their sides, above 0 and at most 1, at which a vision tower sees its images, rounded to whole
            patches (docs/glance.md); schedules count from the patches that this leaves. None leaves images alone.
        correction: of a classifier's last layer, for what this plan does to its features (docs/correction.md); a
            `second` has its own.
        calibrated: where the numbers come from, if a calibration wrote them: model, dataset, target and result.
    """

    stages: Mapping[str, Stage] = field(default_factory=dict)
    calibrated: Mapping[str, object] | None = None
    defer: float | None = None
    resize: float | None = None
    second: Plan | None = None
    correction: Correction | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.defer is not None and not 0 < self.defer <= 1:
            raise ValueError(f"defer is {self.defer}, but must be a difference of probabilities above 0, at most 1")
        if self.resize is not None and not 0 < self.resize <= 1:
            raise ValueError(f"resize is {self.resize}, but must be a share of the images' sides above 0, at most 1")
        if self.second is not None and not isinstance(self.second, Plan):
            raise ValueError(f"second is {self.second!r}, but must be a plan")
        if self.second is not None and self.defer is None:
            raise ValueError("second says how deferred images are answered, but nothing is deferred: give defer too")
        if not isinstance(self.stages, Mapping):
            raise ValueError(f"stages is {self.stages!r}, but must name stages, as the files in conf/pruning do")
        for name, stage in self.stages.items():
            if not isinstance(stage, Stage):
                raise ValueError(f"stages.{name} is {stage!r}, but must be a stage: a site, layers and a method")

    @property
    def looks(self) -> tuple[Plan, ...]:
        """This plan and those after it, each for the images that the one before defers; what the last one defers is
        answered without pruning.
        """
        return (self, *(() if self.second is None else self.second.looks))

    def corrected(self, corrections: Sequence[Correction]) -> Plan:
        """Return the plan with a correction for each of its looks, in their order."""
        second = None if self.second is None else self.second.corrected(corrections[1:])
        return replace(self, correction=corrections[0], second=second)

    @classmethod
    def vision(cls, method: Reducer, layers: str | Sequence[int | float] = "first_half", **stage: Any) -> Plan:
        """Return the plan of one method in the vision tower; `stage` takes the other attributes of `Stage`."""
        return cls({"vision": Stage("vision", layers, method, **stage)})

    @classmethod
    def language(cls, method: Reducer, layers: str | Sequence[int | float], **stage: Any) -> Plan:
        """Return the plan of one method in the decoder; `stage` takes the other attributes of `Stage`."""
        return cls({"language": Stage("language", layers, method, **stage)})

    def located(self, blocks: Callable[[str, str], Sequence[int]]) -> Plan:
        """Return the plan with block numbers in place of the names of stages.

        Args:
            blocks: takes one of `NAMED` and a site; returns 0-based numbers.
        """
        stages = {
            name: replace(stage, layers=blocks(stage.layers, stage.site))
            if isinstance(stage.layers, str) and stage.layers in NAMED
            else stage
            for name, stage in self.stages.items()
        }
        second = None if self.second is None else self.second.located(blocks)
        return replace(self, stages=stages, second=second)

    def up_to(self, last: int, site: str, depth: int) -> Plan:
        """Return the plan with "all" and slices without an end closed at block `last`, beyond which a model reads
        nothing of the site. Layers that were named one by one, or by a slice with an end, stay as they are.
        """
        stages = dict(self.stages)
        for name, stage in stages.items():
            layers = stage.layers
            if (
                stage.site == site
                and isinstance(layers, str)
                and (layers == "all" or re.match(rf"{END}:(:|$)", layers))
            ):
                read = [layer for layer in stage.resolve(depth, f"stages.{name}") if layer <= last]
                stages[name] = replace(stage, layers=read) if read else stage
        return replace(self, stages=stages)

    def at(self, site: str, depth: int) -> dict[int, Step]:
        """Return what is to be done at each pruned block of a network with `depth` blocks.

        Raises:
            SaintpruneError: a layer that the network lacks, a schedule that is too short, or two stages on one layer.
        """
        steps: dict[int, Step] = {}
        for name, stage in self.stages.items():
            if stage.site != site:
                continue
            layers = stage.resolve(depth, f"stages.{name}")
            planned = len(stage.schedule.keep) if stage.schedule and stage.schedule.keep is not None else len(layers)
            if planned != len(layers):
                raise SaintpruneError(
                    f"stages.{name}.schedule.keep has {planned} entries, but layers={stage.layers!r} are"
                    f" {len(layers)} of {depth} blocks: give one entry per pruned layer"
                )
            for number, layer in enumerate(layers):
                if layer in steps:
                    raise SaintpruneError(f"stages {steps[layer].name!r} and {name!r} both prune layer {layer}")
                steps[layer] = Step(name, stage, number, len(layers))
        return steps


@dataclass(frozen=True)
class Step:
    """One pruned layer: its stage, the stage's name, and that it is the `number`-th of the stage's `total` layers."""

    name: str
    stage: Stage
    number: int
    total: int

    def budget(self, patches: int) -> int | None:
        """Return the patches to leave of those that entered the network; None without a schedule."""
        schedule = self.stage.schedule
        return None if schedule is None else schedule.budget(self.number, self.total, patches)


def _end(text: str, depth: int) -> int | None:
    """Return one end of a slice of blocks as a number; None where it is left out."""
    if not text:
        return None
    return _block(float(text) if "." in text else int(text), depth)


def _block(place: int | float, depth: int) -> int:
    """Return the number of a block, given it or the share of the depth before it."""
    return math.floor(place * depth + 1e-9) if isinstance(place, float) else place  # 0.29 * 100 < 29 in floats


IDENTITY = Plan({"vision": Stage("vision", "all", KeepAll())})
"""A plan that walks the whole path and prunes nothing."""
