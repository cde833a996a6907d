"""From names to objects, for notebooks and Python sessions: what `run.py` puts together, without its files and bars.

    run = open_run("model=vit_s14", "dataset=photographs", "pruning=tome")
    with run.adapter.pruned(run.plan) as pruned:
        ...
    (part,) = study_run(run, samples=64)
    print(part.verdict.reason)

Names and keys are those of the files in `conf/`; whatever cannot be is a `SaintpruneError` of one line.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from saintprune import wiring, wiring_analysis, wiring_calibration
from saintprune.analysis.sensitivity import Sensitivity
from saintprune.analysis.settings import AnalysisSettings
from saintprune.analysis.show import Shown
from saintprune.analysis.study import Part
from saintprune.binding import make
from saintprune.config import OF_PRUNING, compose_run
from saintprune.errors import SaintpruneError, did_you_mean
from saintprune.parts import Parts, quiet
from saintprune.plan import Plan


def open_run(*overrides: str) -> Parts:
    """Return the model, the data and the plan of a run, ready to use.

    Args:
        *overrides: as on the command line: "model=vit_s14", "dataset=photographs", "hardware.batch_size=4"; `task` is
            analyze unless it is among them, so that models that only read text can be opened too.

    Raises:
        SaintpruneError: a name, a key or a value that does not fit, or weights or images that are not there.
    """
    quiet()
    return wiring.build(*compose_run(["task=analyze", *overrides]))


def with_pruning(run: Parts, name: str, *overrides: str) -> Parts:
    """Return the run with another pruning; the model and the data are shared, not loaded again.

    Args:
        run: of `open_run`.
        name: of a file in `conf/pruning/`.
        *overrides: of keys below `pruning`, such as "pruning.stages.vision.layers=all".

    Raises:
        SaintpruneError: no such pruning, or one that does not fit the model.
    """
    for override in overrides:
        if not override.lstrip("+~").startswith(OF_PRUNING):
            raise SaintpruneError(f"{override!r} changes more than the pruning: give it to open_run")
    composed, names = compose_run([f"pruning={name}", *overrides])
    cfg = copy.deepcopy(run.cfg)
    cfg.pruning = composed.pruning
    return wiring.repruned(run, cfg, {**run.names, "pruning": names["pruning"]})


def study_run(run: Parts, **settings: Any) -> list[Part]:
    """Trace the network and its random twins, and return the curves and the verdict of each of its parts.

    Nothing is written, and no stages are kept for plans. Time grows with `samples` and with `twins`, each of which
    stands for two networks more.

    Args:
        run: of `open_run`.
        **settings: of `AnalysisSettings`; those that are not given are the run's.

    Raises:
        SaintpruneError: a setting that does not fit, or data that does not fit the network.
    """
    return wiring_analysis.study_parts(run, _settings(run, settings))


def drop_at_each_block(run: Parts, *, layers: Sequence[int] | None = None, **settings: Any) -> list[Sensitivity]:
    """Drop a share of the patches at one block at a time, and return what it costs by method and block.

    Args:
        run: of `open_run`.
        layers: 0-based numbers of blocks; None is all.
        **settings: of `AnalysisSettings`: `sensitivity` is the number of images, `share` what is dropped.

    Raises:
        SaintpruneError: a setting or a block that does not fit, or a model without image tokens.
    """
    return wiring_analysis.sensitivity(run, _settings(run, settings), layers=layers)


def show_images(run: Parts, **settings: Any) -> Shown:
    """Return what is to be seen of the first images: their keys, and which patches the run's pruning leaves.

    Args:
        run: of `open_run` or `with_pruning`.
        **settings: of `AnalysisSettings`: `pictures` is the number of images, at most one batch.

    Raises:
        SaintpruneError: the run has no images, or the patches of its model cannot be told apart.
    """
    chosen = _settings(run, settings)
    if not chosen.pictures:
        raise SaintpruneError("pictures is 0, so there is nothing to show: give 1 or more")
    shown = wiring_analysis.pictures_of(run, chosen)
    if shown is None:
        raise SaintpruneError(
            f"model={run.cfg.model.name} with dataset={run.names['dataset']} has no images whose patches can be shown"
        )
    return shown


def training_images(run: Parts, number: int) -> list[Tensor]:
    """Return about so many images of the training split, in whole batches [B, C, H, W] on the run's device.

    Args:
        run: of `open_run`, of a network that looks at images.
        number: of images, rounded down to whole batches, of which there is at least one.

    Raises:
        SaintpruneError: the run has no training images.
    """
    size = run.hardware.batch_size
    return wiring_calibration.training_batches(run, max(1, number // size) * size)


@torch.inference_mode()
def outputs(run: Parts, batches: Sequence[Tensor], plan: Plan | None = None) -> Tensor:
    """Return what the network answers to batches of images under a plan, [images, classes or features] float32.

    Args:
        run: of `open_run`, of a network that looks at images.
        batches: each [B, C, H, W].
        plan: None leaves the network untouched.
    """
    with nullcontext() if plan is None else run.adapter.pruned(plan):
        return torch.cat([run.adapter.net(images) for images in batches]).float()


def _settings(run: Parts, changes: dict[str, Any]) -> AnalysisSettings:
    """Return the run's settings of the analysis with some of them changed."""
    known = [field.name for field in fields(AnalysisSettings)]
    for name in changes:
        if name not in known:
            raise SaintpruneError(
                f"the analysis has no {name!r}{did_you_mean(name, known)}; it takes {', '.join(known)}"
            )
    try:
        return replace(make(run.cfg, "analysis"), **changes)
    except ValueError as error:
        raise SaintpruneError(f"analysis: {error}") from error
