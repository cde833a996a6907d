"""The most common use in one call: a network of timm or transformers, a method by its name, a speed to reach.

    with saintprune.prune(net, "saint", speedup=2.0, images=batch) as pruned:
        logits = net(images)
    print(pruned.calibrated, pruned.tokens_per_layer)

What it leaves out (kinds of positions and caches, pooling by sizes, timed selections) the adapters have.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from saintprune.adapters.base import ViTAdapter
from saintprune.adapters.borrow import patch
from saintprune.adapters.choose import adapter_for
from saintprune.adapters.head import not_corrected
from saintprune.calibration.among import best_of
from saintprune.calibration.correct import Corrector, fitted_for_another
from saintprune.calibration.inputs import batches_of, noise_for
from saintprune.calibration.search import Calibrated, Calibrator, Knob
from saintprune.calibration.targets import Target
from saintprune.errors import SaintpruneError
from saintprune.named_plan import named_plan
from saintprune.plan import Plan, Schedule

if TYPE_CHECKING:
    from typing import Self

    from saintprune.adapters.run import PrunedRun
    from saintprune.adapters.vlm import VLM, VLMRun

Inputs = Tensor | Mapping[str, Tensor]
STEPS, STEPS_OF_TIME = 10, 6  # of bisection: finer than 1/64 is below the noise of a clock


class Pruned:
    """A network that prunes until `restore()`, or until the end of a `with` block.

    The network keeps this handle for as long as it prunes, so the handle need not be kept.

    Attributes:
        model: the network that was given.
        adapter: around it.
        plan: what is pruned; give it to `prune` in place of a name to skip a calibration that was done once.
        calibrated: what the calibration found, its figures measured here, on the images that were given; None where
            nothing was calibrated.
        run: what the latest forward pass did.
    """

    def __init__(
        self, model: nn.Module, adapter: ViTAdapter | VLM, plan: Plan, calibrated: Calibrated | None = None
    ) -> None:
        self.model, self.adapter, self.plan, self.calibrated = model, adapter, plan, calibrated
        with ExitStack() as undo:
            self.run: PrunedRun | VLMRun = undo.enter_context(adapter.pruned(plan))
            patch(undo, model, "_saintprune_handle", self)  # a handle that is collected would end the pruning silently
            self._undo = undo.pop_all()

    def restore(self) -> None:
        """Give the network back as it was; a second time does nothing."""
        self._undo.close()

    @property
    def tokens_per_layer(self) -> list[float]:
        """Mean tokens of a sample that leave each block in the latest forward pass, special ones included; of a
        vision-language model image tokens, by decoder layer.

        Raises:
            SaintpruneError: the network has made no forward pass yet.
        """
        run: Any = self.run
        return run.tokens_per_layer if isinstance(self.adapter, ViTAdapter) else run.visual_tokens_per_layer

    def __enter__(self) -> Self:
        """Return the handle: the network prunes already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore, also after an exception."""
        self.restore()

    def __repr__(self) -> str:
        """Return the network, the stages and what was measured."""
        stages = []
        for number, plan in enumerate(self.plan.looks):
            then = "then " if number else ""
            stages += [f"{then}{name}: {stage.method} on {stage.layers}" for name, stage in plan.stages.items()]
            for name, value in (("resize", plan.resize), ("defer", plan.defer)):
                stages += [] if value is None else [f"{then}{name}: {value:g}"]
            if (correction := plan.correction) is not None:
                stages.append(f"{then}corrected on {correction.images} images")
        measured = [] if self.calibrated is None else [f"calibrated: {self.calibrated.measured}"]
        return f"Pruned({'; '.join([type(self.model).__name__, *stages, *measured])})"


def prune(
    model: nn.Module,
    method: str | Plan | Sequence[str | Plan] = "saint",
    *,
    speedup: float | None = None,
    flops: float | None = None,
    tokens: float | None = None,
    agreement: float | None = None,
    drop: float | None = None,
    defer: float | None = None,
    resize: float | None = None,
    images: Inputs | Iterable[Any] | None = None,
    correct_on: Tensor | Iterable[Any] | None = None,
    samples: int = 64,
    **settings: Any,
) -> Pruned:
    """Let a network prune its image tokens from now on, or for the `with` block that this stands in.

    Give at most one of `speedup`, `flops`, `tokens` and `agreement`, which calibrate one number of the plan on `images`
    first (some seconds to minutes), such as the method's threshold or its schedule, or `drop`, which needs no
    calibration.

    Args:
        model: a `VisionTransformer` or `Eva` of timm, or a vision tower or vision-language model of transformers; it
            is borrowed, not copied.
        method: name of a pruning (`pruning=NAME` on the command line), or a plan. Of several, such as
            `["ward_cascade", "glance"]`, each is calibrated, and that is taken which keeps the most answers on `images`
            (for an `agreement`: which leaves the fewest FLOPs).
        speedup: factor to reach, such as 2.0, measured here, at the batch size of `images`.
        flops: share of the FLOPs to leave, such as 0.5.
        tokens: share of the mean tokens per layer to leave, such as 0.5.
        agreement: share of the answers to keep, such as 0.98.
        drop: share of the patches that is gone after the last pruned layer.
        defer: of a classifier: answer anew the images for which the probabilities of the two likeliest classes lie less
            than this apart, such as 0.2, without pruning or as the plan's `second` says (docs/cascade.md); the targets
            above then count all passes. None leaves it as it is in the plan.
        resize: of a vision tower: let it see images at this share of their sides, such as 0.75, and prune what is left
            of their patches (docs/glance.md). None leaves it as it is in the plan.
        images: unlabelled, as the network takes them: [B, C, H, W]; what a processor of transformers returns; or a
            loader of either, labels beside them allowed. A vision-language model needs a processor's tensors. None
            calibrates on noise, with a warning.
        correct_on: of a classifier: other unlabelled images, hundreds or more, to whose unpruned answers its last layer
            is fitted for what pruning does to its features (docs/correction.md). All of them are used. None leaves it
            as it is.
        samples: of `images`, if a loader, take so many.
        **settings: values of the method (`threshold=0.9`) or of its stage (`layers="all"`); of a pruning with several
            stages by stage: `vision={"threshold": 0.9}`. Of a cascade they change the first look; a `second` keeps its
            own.

    Returns:
        The handle, which ends the pruning by `restore()` or as a context manager.

    Raises:
        SaintpruneError: no such method, a network that no adapter knows, a setting that does not fit, a target that
            cannot be reached, or a network that is being pruned already.
    """
    target = _target({"speedup": speedup, "flops": flops, "tokens": tokens, "agreement": agreement, "drop": drop})
    if images is not None and target is None:
        raise SaintpruneError("images are there to calibrate on: give speedup=, flops=, tokens= or agreement= as well")
    if correct_on is not None and images is None and target is not None:
        raise SaintpruneError("correct_on are images to correct on: to calibrate, give other ones as images= as well")
    adapter = adapter_for(model)
    methods, own = _each(method), {"defer": defer, "resize": resize}
    plans = [_plan(each, settings, drop, own, corrects=correct_on is not None) for each in methods]
    if model.training and (target is not None or correct_on is not None):
        raise SaintpruneError("the network is in training mode, whose dropout no calibration should see: net.eval()")
    corrector = None if correct_on is None else _corrector(model, adapter, correct_on)
    if target is None:
        if len(plans) > 1:
            raise SaintpruneError(
                "several methods are chosen among by what they do to images: give a target and images="
            )
        if isinstance(methods[0], str):  # the numbers of a plan are the caller's
            _warn_of_thresholds(plans[0], settings)
        return Pruned(model, adapter, plans[0] if corrector is None else corrector.corrected(plans[0]))
    batches = _noise(adapter, plans[0], samples) if images is None else batches_of(images, adapter, samples)
    steps = STEPS_OF_TIME if target.kind == "speedup" else STEPS
    calibrated = best_of(_calibrator(model, adapter, batches), plans, target, steps, corrector)
    return Pruned(model, adapter, calibrated.plan, calibrated)


def _each(method: str | Plan | Sequence[str | Plan]) -> list[str | Plan]:
    """Return the methods that are asked for, one at least."""
    methods = [method] if isinstance(method, (str, Plan)) else list(method)
    if not methods:
        raise SaintpruneError("no method is given: name one, such as 'ward'")
    return methods


def _plan(
    method: str | Plan, settings: Mapping[str, Any], drop: float | None, own: Mapping[str, Any], *, corrects: bool
) -> Plan:
    """Return a plan with values changed: of its stages, of its schedule and of its own.

    Raises:
        SaintpruneError: a value is refused, or the plan has a correction for other stages or another size, and none is
            going to be fitted (`corrects`).
    """
    given = named_plan(method)
    plan = _with(named_plan(given, settings), own)
    plan = plan if drop is None else named_plan(plan, {"schedule": _schedule(drop, plan)})
    if plan.correction is not None and not corrects and (plan.stages, plan.resize) != (given.stages, given.resize):
        raise fitted_for_another()
    return plan


def _target(given: Mapping[str, float | None]) -> Target | None:
    """Return the one target that is given; None for none, and for `drop`, which is no target."""
    named = {kind: value for kind, value in given.items() if value is not None}
    if len(named) > 1:
        raise SaintpruneError(f"give one of {', '.join(given)}, not {' and '.join(named)} at once")
    return next((Target.parse(f"{kind}:{value}") for kind, value in named.items() if kind != "drop"), None)


def _schedule(drop: float, plan: Plan) -> Schedule:
    """Return the schedule to drop a share in the shape of that of the plan, which is to have one stage."""
    own = next((stage.schedule for stage in plan.stages.values()), None)
    try:
        return Schedule.dropping(drop, own)
    except (TypeError, ValueError) as error:
        raise SaintpruneError(f"drop is {drop!r}, but must be a share between 0 and 1") from error


def _with(plan: Plan, values: Mapping[str, Any]) -> Plan:
    """Return the plan with other values of its own; None leaves one as it is."""
    try:
        return replace(plan, **{name: value for name, value in values.items() if value is not None})
    except (TypeError, ValueError) as error:
        raise SaintpruneError(str(error)) from error


def _calibrator(model: nn.Module, adapter: ViTAdapter | VLM, batches: list[Any]) -> Calibrator:
    """Return what measures a network on batches: a vision-language model by reading the prompts."""
    if isinstance(adapter, ViTAdapter):
        classifies = getattr(model, "num_classes", 1) > 0  # timm's, where 0 means features
        return Calibrator(adapter, batches, classifies=classifies, forward=model)
    from saintprune.evaluation.vlm_passes import read_prompt

    return Calibrator(adapter, batches, forward=partial(read_prompt, model))


def _corrector(model: nn.Module, adapter: ViTAdapter | VLM, images: Tensor | Iterable[Any]) -> Corrector:
    """Return what corrects a classifier on images."""
    if not isinstance(adapter, ViTAdapter):
        raise not_corrected(model)
    return Corrector(adapter, images)


def _noise(adapter: ViTAdapter | VLM, plan: Plan, samples: int) -> list[Any]:
    """Return a batch of noise, and warn of it."""
    batch = noise_for(adapter, samples)
    looks = "" if Knob.of(plan).name == "schedule.drop" else ", in which tokens are unlike those of pictures"
    size = "x".join(str(number) for number in batch.shape)
    warnings.warn(f"no images were given, so this calibrates on noise ({size}){looks}: give images=", stacklevel=3)
    return [batch]


def _warn_of_thresholds(plan: Plan, settings: Mapping[str, Any]) -> None:
    """Warn where a threshold is used that was found on another network."""
    for name, stage in plan.stages.items():
        own = settings.get(name, settings)
        if stage.schedule is None and hasattr(stage.method, "threshold") and "threshold" not in own:
            value = stage.method.threshold  # type: ignore[attr-defined]
            source = (plan.calibrated or {}).get("model", "the paper's networks")
            warnings.warn(
                f"stages.{name}: threshold={value:g} is that of {source}, and thresholds do not transfer: give"
                " speedup=2.0 and images= to calibrate, threshold= or drop=",
                stacklevel=3,
            )
