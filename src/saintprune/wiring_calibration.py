"""Calibrating a run's plan and correcting its classifier, and the pruning that is kept of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from saintprune.adapters.base import ViTAdapter
from saintprune.adapters.head import not_corrected
from saintprune.calibration.correct import Corrector, search_corrected
from saintprune.calibration.search import Calibrated, Calibrator
from saintprune.calibration.targets import Target
from saintprune.config import Task, own_config_dir, plain
from saintprune.errors import SaintpruneError
from saintprune.files import write_atomically
from saintprune.models import corrections
from saintprune.models.heads import exchanged, fit_command
from saintprune.models.loaded import LoadedModel
from saintprune.parts import Parts, console, progress
from saintprune.plan import Plan


@dataclass(frozen=True)
class FurtherImages:
    """Images of the training split after those of calibration, batch by batch, read anew each time.

    Attributes:
        parts: of the run.
        first: images to pass over.
        number: of images, at most, rounded up to whole batches.
    """

    parts: Parts
    first: int
    number: int

    def __iter__(self) -> Iterator[Tensor]:
        """Yield batches [B, C, H, W]."""
        for images, _ in islice(self.parts.data.train_dataloader(), *self._batches):
            yield images.to(self.parts.device, self.parts.hardware.dtype)

    def __len__(self) -> int:
        """Return the number of batches."""
        first, end = self._batches
        return end - first

    @property
    def _batches(self) -> tuple[int, int]:
        size, there = self.parts.hardware.batch_size, len(self.parts.data.train_dataloader())
        first = -(-self.first // size)
        if first >= there:
            raise SaintpruneError(
                f"calibration.correct={self.number} wants training images after the first {self.first}, which"
                f" calibration.samples takes, but dataset={self.parts.names['dataset']} has no more: take fewer samples"
            )
        return first, min(first - (-self.number // size), there)


def prepare(parts: Parts, target: Target | None) -> Calibrated | None:
    """Calibrate and correct as the config says; from here on, the run's plan is the one that was found."""
    corrector = _corrector(parts)
    found = None if target is None else calibrate(parts, target, corrector)
    if corrector is not None:  # the head that will answer, which need not be the one that was calibrated with
        with progress("correcting the classifier") as advance:
            parts.plan = corrector.corrected(parts.plan, advance)
        fitted = [str(look.correction) for look in parts.plan.looks]
        console.print(f"corrected the classifier: {', '.join(fitted)}", soft_wrap=True)
    if found is not None and target is not None and parts.cfg.task == Task.calibrate:
        name, path = _save_pruning(parts, found, target)
        console.print(f"written to {path}; use it with: [bold]pruning={name}[/bold]", soft_wrap=True)
    return found


def in_record(plan: Plan, calibrated: Calibrated | None) -> dict[str, Any] | None:
    """Return what a record says of calibration and correction; None where there was neither."""
    found = {} if calibrated is None else calibrated.as_dict()
    fitted = [look.correction for look in plan.looks if look.correction is not None]
    if fitted:  # an infinite penalty is that nothing was changed
        penalties = [None if math.isinf(one.penalty) else one.penalty for one in fitted]
        found["correction"] = {"images": fitted[0].images, "penalties": penalties}
    return found or None


def _corrector(parts: Parts) -> Corrector | None:
    """Return what corrects the run's classifier; None where that is not asked for."""
    first, number = parts.cfg.calibration.samples, parts.cfg.calibration.correct
    if number is None:
        return None
    if not isinstance(parts.adapter, ViTAdapter):
        raise not_corrected(parts.adapter.net)
    if (first, number) not in parts.correctors:
        parts.correctors[first, number] = Corrector(parts.adapter, FurtherImages(parts, first, number))
    return parts.correctors[first, number]


def calibrate(parts: Parts, target: Target, corrector: Corrector | None = None) -> Calibrated:
    """Search on unlabelled images of the training split; from here on, the run's plan is the one that was found."""
    options = parts.cfg.calibration
    key = (options.samples, options.pairs, options.head)
    with progress(f"calibrating to {target}") as advance, _calibrating_head(parts):
        if key not in parts.calibrators:
            batches = training_batches(parts, options.samples)
            classifies = parts.model.num_classes > 0
            parts.calibrators[key] = Calibrator(parts.adapter, batches, options.pairs, classifies)
        found = search_corrected(parts.calibrators[key], corrector, parts.plan, target, options.steps, advance)
    console.print(f"calibrated to {target}: {found.knob}={found.value:g} ({found.measured})", soft_wrap=True)
    parts.plan = found.plan
    return found


def _calibrating_head(parts: Parts) -> AbstractContextManager[None]:
    """Return the context in which the network has the head to calibrate with."""
    head = parts.cfg.calibration.head
    if head is None:
        return nullcontext()
    if not isinstance(parts.model, LoadedModel):
        raise SaintpruneError(f"calibration.head={head} is for classifiers, but {parts.cfg.model.name} is none")
    fit = fit_command(parts.cfg, parts.names["dataset"])
    return exchanged(parts.model, head, model=parts.cfg.model.name, dataset=parts.data.name, fit=fit)


def training_batches(parts: Parts, samples: int) -> list[Tensor]:
    """Return the first images of the training split, so many at least where there are any, as whole batches."""
    return whole_batches(parts, parts.data.train_dataloader(), samples)


def whole_batches(parts: Parts, loader: Any, samples: int) -> list[Tensor]:
    """Return the first images of a loader as whole batches on the device."""
    batches: list[Tensor] = []
    for images, _ in loader:
        batches.append(images.to(parts.device, parts.hardware.dtype))
        if sum(len(batch) for batch in batches) >= samples:
            break
    whole = [batch for batch in batches if len(batch) == len(batches[0])]
    if not whole:
        raise SaintpruneError(f"dataset={parts.names['dataset']} has no images to measure with")
    return whole


def _save_pruning(parts: Parts, found: Calibrated, target: Target) -> tuple[str, Path]:
    """Write the calibrated pruning as YAML; return what `pruning=` loads it by, and the file."""
    content = plain(parts.cfg.pruning)
    if found.stage is None:
        content[found.knob] = found.value
    elif (schedule := found.plan.stages[found.stage].schedule) is None:
        content["stages"][found.stage]["method"]["threshold"] = found.value
    else:
        content["stages"][found.stage]["schedule"] = {"_target_": "saintprune.plan.Schedule"} | asdict(schedule)
    choice = parts.names["pruning"].split(" ")[0].rpartition("/")[2]
    content["calibrated"] = {
        "model": parts.cfg.model.name,
        "dataset": parts.data.name,
        "target": str(target),
        "images": found.images,
        "measured": asdict(found.measured),
    }
    name = parts.cfg.calibration.save_as or f"{parts.cfg.model.name}/{choice}_{target.kind}{target.value:g}"
    header = f"# written by task=calibrate: {found.knob} of pruning={choice} for {target}\n"
    path = own_config_dir() / "pruning" / f"{name}.yaml"
    if parts.plan.correction is not None:
        tensors = corrections.write(path.with_suffix(corrections.SUFFIX), parts.plan)
        corrections.name_in(content, tensors, name)
    return name, write_atomically(path, header + OmegaConf.to_yaml(OmegaConf.create(content)))
