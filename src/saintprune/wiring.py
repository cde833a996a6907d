"""The only place where configs become objects and the parts are called."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from saintprune import wiring_analysis, wiring_calibration, wiring_logging, wiring_vlm
from saintprune.binding import make
from saintprune.calibration.search import Calibrated
from saintprune.calibration.targets import Target
from saintprune.config import Task, plain
from saintprune.errors import SaintpruneError
from saintprune.evaluation.benchmark import Benchmark, BenchmarkResult
from saintprune.evaluation.classification import Scores, score
from saintprune.evaluation.processes import first_is_there, processes
from saintprune.evaluation.sharing import Watch
from saintprune.evaluation.vlm_timing import VLMTiming
from saintprune.evaluation.vqa_summary import VQAScores
from saintprune.metrics.samples import Samples
from saintprune.models import corrections
from saintprune.models.heads import answers, attach, fit_command
from saintprune.parts import Parts, console, progress, quiet
from saintprune.plan import NAMED, Plan
from saintprune.reporting.assemble import figures, vlm_figures
from saintprune.reporting.identity import identity, names_stages
from saintprune.reporting.records import RunRecord
from saintprune.reporting.tables import layers_line, run_table
from saintprune.wiring_calibration import whole_batches

FEW = 0.1  # share of the tokens at the end below which a run says how to calibrate


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Turn what OmegaConf says of a config (no such interpolation, no such key) into one line."""
    try:
        yield
    except OmegaConfBaseException as error:
        reason = " ".join(str(error).split())
        raise SaintpruneError(f"the config cannot be read: {reason}; see it with --cfg job") from error


@_clear_errors()
def run(cfg: DictConfig, output_dir: Path, names: dict[str, str], sweep: Path | None = None) -> RunRecord:
    """Do the task of a composed config and write its record.

    Args:
        cfg: of the schema `config.Config`.
        output_dir: where `metrics.json` goes.
        names: how the dataset is called in messages, and the pruning in the record.
        sweep: folder of the sweep that the run is a job of.

    Raises:
        SaintpruneError: a mistake that the user can mend.
    """
    quiet()
    known_as = identity_of(cfg)  # first: a run may change the files that it was made from
    target = None if cfg.calibration.target is None else Target.parse(cfg.calibration.target)
    if cfg.task == Task.calibrate and target is None:
        raise SaintpruneError("task=calibrate needs a target, for example calibration.target=flops:0.5")
    for name in ("samples", "correct", "steps", "pairs"):
        if cfg.calibration[name] is not None and cfg.calibration[name] < 1:
            raise SaintpruneError(f"calibration.{name} is {cfg.calibration[name]}, but must be at least 1")
    logger = wiring_logging.open_logger(cfg, output_dir, sweep)  # first, so that a missing one costs no run
    analysis = make(cfg, "analysis")
    parts = build(cfg, names)
    _warn(parts)
    calibrated = wiring_calibration.prepare(parts, target)
    if cfg.task == Task.analyze:
        found = wiring_analysis.analyze(parts, analysis, output_dir)
        record = _record(parts, None, None, None, found)
    else:
        record = measure(parts, calibrated)
    record = replace(record, identity=known_as)
    path = record.write(output_dir / "metrics.json")
    wiring_logging.log(logger, record, path, parts, analysis)
    if cfg.task in (Task.evaluate, Task.benchmark):
        _show(record)
    console.print(f"record: {path}", soft_wrap=True)
    return record


@_clear_errors()
def identity_of(cfg: DictConfig) -> str:
    """Return the hash of what determines the figures of a run of this config, here and with this code.

    Raises:
        SaintpruneError: the hardware's values make no sense.
    """
    config = plain(cfg)
    stages = wiring_analysis.stages_path(cfg.model.name) if names_stages(config, NAMED) else None
    return identity(config, asdict(make(cfg, "hardware")), stages)


@_clear_errors()
def build(cfg: DictConfig, names: dict[str, str]) -> Parts:
    """Turn the groups of a config into objects that fit each other."""
    torch.manual_seed(cfg.seed)
    hardware = make(cfg, "hardware")
    plan, settings = _plan(cfg), make(cfg, "benchmark")
    device = hardware.device  # one that this machine lacks is an error before anything is loaded
    model = make(cfg, "model.net")
    if wiring_vlm.is_vlm(model):
        return wiring_vlm.build(cfg, names, hardware, plan, settings, model)
    if wiring_analysis.is_language(model):
        return wiring_analysis.build(cfg, names, hardware, plan, settings, model)
    wiring_vlm.refuse_questions(cfg, names["dataset"])
    data = make(
        cfg,
        "dataset",
        transform=model.transform,
        input_size=model.input_size,
        batch_size=hardware.batch_size,
        num_workers=hardware.num_workers,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*they are left out")  # `_warn` says it better
        data.setup()
    model = attach(
        model,
        cfg.model.head,
        model=cfg.model.name,
        dataset=data.name,
        classes=data.classes,
        fit=fit_command(cfg, names["dataset"]),
    )
    hardware.prepare(model.net)
    adapter = make(cfg, "model.adapter", net=model.net)
    adapter.check(plan)  # a layer that the network lacks is an error now, not after minutes
    return Parts(cfg, names, hardware, device, data, model, adapter, plan, settings)


def repruned(parts: Parts, cfg: DictConfig, names: dict[str, str]) -> Parts:
    """Return the parts of a run that differs in its pruning alone; its model is not loaded again.

    Raises:
        SaintpruneError: the plan does not fit the model.
    """
    plan = _plan(cfg)
    if wiring_vlm.is_vlm(parts.model):
        wiring_vlm.check_plan(parts.adapter, plan, parts.model)
    else:
        parts.adapter.check(plan)
    return replace(parts, cfg=cfg, names=names, plan=plan)


def measure(parts: Parts, calibrated: Calibrated | None = None) -> RunRecord:
    """Score and time as the task asks for, and return the record."""
    return measured(parts, calibrated)[0]


def measured(parts: Parts, calibrated: Calibrated | None = None) -> tuple[RunRecord, Samples | None]:
    """Score and time as the task asks for; return the record and, where it was scored, the answers one by one."""
    scores = _score(parts) if parts.cfg.task == Task.evaluate else None
    timing = _benchmark(parts) if parts.cfg.task != Task.calibrate else None
    return _record(parts, scores, timing, calibrated), scores.samples if scores else None


def unreached(parts: Parts, reason: str) -> RunRecord:
    """Return the record of a run that measured nothing, because its pruning cannot meet the target."""
    return replace(_record(parts, None, None, None), out_of_reach=reason)


def _plan(cfg: DictConfig) -> Plan:
    """Return the plan of a config; stages that it names become the blocks that the analysis of the model found."""
    if cfg.calibration.correct is None:  # else others will be fitted
        corrections.check(plain(cfg)["pruning"])
    return wiring_analysis.located(make(cfg, "pruning"), cfg.model.name)


def _warn(parts: Parts) -> None:
    """Say what a newcomer would want to know before reading the figures."""
    calibrated = parts.plan.calibrated
    prunes = not wiring_analysis.is_language(parts.model)
    if prunes and calibrated is not None and calibrated.get("model") != parts.cfg.model.name:
        console.print(
            f"[yellow]note:[/yellow] pruning={parts.names['pruning']} was calibrated for {calibrated.get('model')};"
            f" thresholds do not transfer. For {parts.cfg.model.name}: task=calibrate calibration.target=…"
        )
    for path in parts.data.broken:
        console.print(f"[yellow]left out, cannot be read:[/yellow] {path}")


def _score(parts: Parts) -> Scores | VQAScores:
    """Score the test split with Lightning, on as many devices as the hardware profile says."""
    count, cuda = parts.hardware.devices, parts.hardware.accelerator == "cuda"
    with processes(count, _helper, parts.cfg, parts.names, parts.plan, cuda=cuda) as check:
        return _score_share(parts, [RichProgressBar(), Watch(check)])


def _helper(cfg: DictConfig, names: dict[str, str], plan: Plan) -> Callable[[], object]:
    """Prepare another process's part in scoring: the same objects, and the plan that calibration may have found."""
    quiet()
    console.quiet = True
    return partial(_score_share, replace(build(cfg, names), plan=plan), [Watch(first_is_there)])


def _score_share(parts: Parts, callbacks: list[Callback]) -> Scores | VQAScores:
    """Score one process's share of the test split; the scores are those of all."""
    if wiring_vlm.is_vlm(parts.model):
        return wiring_vlm.score_questions(parts, callbacks)
    return score(
        parts.adapter,
        parts.plan,
        parts.data,
        num_classes=parts.model.num_classes,
        labelled=answers(parts.model, parts.data.classes),
        unpruned=parts.unpruned,
        callbacks=callbacks,
        **parts.hardware.trainer_arguments(),
    )


def _benchmark(parts: Parts) -> BenchmarkResult | VLMTiming:
    """Time the network on images of the test split."""
    if wiring_vlm.is_vlm(parts.model):
        return wiring_vlm.benchmark(parts)
    with progress("timing") as advance:
        return Benchmark(parts.adapter, parts.plan, timed_batches(parts), parts.settings).run(advance)


def timed_batches(parts: Parts, most: int | None = None) -> list[Tensor]:
    """Return the images of the test split that are passed through the network to time it, in `most` batches at most;
    None takes as many as the settings say.
    """
    number = parts.settings.batches if most is None else most
    return whole_batches(parts, parts.data.test_dataloader(), number * parts.hardware.batch_size)


def _show(record: RunRecord) -> None:
    """Print the table of a run, its tokens per layer, and a word where few of them are left."""
    console.print(run_table(record))
    if "ttft_seconds" in record.baseline:
        return wiring_vlm.show_tokens(record)
    before, after = (arm["tokens_per_layer"] for arm in (record.baseline, record.pruned))
    console.print(f"tokens that leave each block, unpruned: {layers_line(before)}")
    console.print(f"tokens that leave each block, pruned:   {layers_line(after)}")
    if after[-1] < FEW * before[-1]:
        console.print(
            f"[yellow]note:[/yellow] only {after[-1]:.0f} of {before[-1]:.0f} tokens are left at the end. Thresholds do"
            " not transfer between models; find yours: task=calibrate calibration.target=speedup:2.0"
        )


def _record(
    parts: Parts,
    scores: Scores | VQAScores | None,
    timing: BenchmarkResult | VLMTiming | None,
    calibrated: Calibrated | None,
    analysis: dict[str, Any] | None = None,
) -> RunRecord:
    """Put together what the run was and what it found."""
    assemble = vlm_figures if wiring_vlm.is_vlm(parts.model) else figures
    found = assemble(
        asdict(scores) if scores else None, asdict(timing) if timing else None, parts.hardware.share_of_peak
    )
    if analysis is not None:
        found["num_samples"] = analysis["samples"]
    return RunRecord(
        task=parts.cfg.task.value,
        model=parts.cfg.model.name,
        dataset=parts.data.name,
        pruning=parts.names["pruning"],
        **found,
        calibration=wiring_calibration.in_record(parts.plan, calibrated),
        analysis=analysis,
        **what_was_run(parts),
    )


def what_was_run(parts: Parts) -> dict[str, Any]:
    """Return what a record tells of a run beside its figures: hardware, sources, seed and config."""
    return {
        "hardware": {**asdict(parts.hardware), "device": parts.hardware.device_name()},
        "sources": {
            "model": parts.model.source,
            "dataset_licence": parts.data.licence,
            "unreadable_images_left_out": list(parts.data.broken),
        },
        "seed": parts.cfg.seed,
        "config": plain(parts.cfg),
    }
