"""The only place where configs become objects and the parts are called."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from lightning.pytorch.callbacks import RichProgressBar
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from saintprune.adapters.base import ViTAdapter
from saintprune.calibration.search import Calibrated, Calibrator
from saintprune.calibration.targets import Target
from saintprune.config import Task, config_dir
from saintprune.errors import SaintpruneError, did_you_mean
from saintprune.evaluation.benchmark import Benchmark, BenchmarkResult
from saintprune.evaluation.classification import Scores, score
from saintprune.evaluation.timing import BenchmarkSettings
from saintprune.hardware import HardwareProfile
from saintprune.models.heads import answers, attach
from saintprune.plan import Plan
from saintprune.reporting.assemble import figures
from saintprune.reporting.loggers import log_record
from saintprune.reporting.plots import sweep_figure
from saintprune.reporting.records import RunRecord, write_atomically
from saintprune.reporting.tables import layers_line, run_table, sweep_table

console = Console()


@dataclass
class Parts:
    """The objects of one run."""

    cfg: DictConfig
    names: dict[str, str]
    hardware: HardwareProfile
    data: Any
    model: Any
    adapter: ViTAdapter
    plan: Plan
    settings: BenchmarkSettings


def run(cfg: DictConfig, output_dir: Path, names: dict[str, str]) -> RunRecord:
    """Do the task of a composed config and write its record.

    Args:
        cfg: of the schema `config.Config`.
        output_dir: where `metrics.json` goes.
        names: how dataset and pruning are called in the record.

    Raises:
        SaintpruneError: a mistake that the user can mend.
    """
    for library in ("lightning.pytorch", "lightning.fabric", "httpx"):
        logging.getLogger(library).setLevel(logging.ERROR)
    target = None if cfg.calibration.target is None else Target.parse(cfg.calibration.target)
    if cfg.task == Task.calibrate and target is None:
        raise SaintpruneError("task=calibrate needs a target, for example calibration.target=flops:0.5")
    logger = _make(cfg, "logger", save_dir=str(output_dir))  # first, so that a missing one costs no run
    parts = build(cfg, names)
    _warn(parts)
    calibrated = None if target is None else _calibrate(parts, target)
    if calibrated is not None:
        parts.plan = calibrated.plan
    if cfg.task == Task.calibrate:
        assert calibrated is not None and target is not None
        saved = _save_pruning(parts, calibrated, target)
        console.print(f"found {calibrated.knob}={calibrated.value:g}: {calibrated.measured}")
        console.print(f"use it with: [bold]pruning={saved}[/bold]")
    scores = _score(parts) if cfg.task == Task.evaluate else None
    measured = _benchmark(parts) if cfg.task != Task.calibrate else None
    record = _record(parts, scores, measured, calibrated)
    path = record.write(output_dir / "metrics.json")
    log_record(logger, record)
    if cfg.task != Task.calibrate:
        console.print(run_table(record))
        console.print(f"tokens that leave each block, unpruned: {layers_line(record.baseline['tokens_per_layer'])}")
        console.print(f"tokens that leave each block, pruned:   {layers_line(record.pruned['tokens_per_layer'])}")
    console.print(f"record: {path}", soft_wrap=True)
    return record


def build(cfg: DictConfig, names: dict[str, str]) -> Parts:
    """Turn the groups of a config into objects that fit each other."""
    torch.manual_seed(cfg.seed)
    hardware = _make(cfg, "hardware")
    plan, settings = _make(cfg, "pruning"), _make(cfg, "benchmark")
    hardware.device  # noqa: B018  # a device that this machine lacks is an error before anything is loaded
    model = _make(cfg, "model.net")
    data = _make(
        cfg,
        "dataset",
        transform=model.transform,
        input_size=model.input_size,
        batch_size=hardware.batch_size,
        num_workers=hardware.num_workers,
    )
    data.setup()
    model = attach(model, cfg.model.head, model=cfg.model.name, dataset=data.name, classes=data.classes)
    hardware.prepare(model.net)
    adapter = _make(cfg, "model.adapter", net=model.net)
    plan.at("vision", adapter.depth)  # a layer that the network lacks is an error now, not after minutes
    return Parts(cfg, names, hardware, data, model, adapter, plan, settings)


def summarise(sweep_dir: Path) -> None:
    """Print one table over the records below a folder and draw their figure."""
    records = [RunRecord.read(path) for path in sorted(sweep_dir.glob("**/metrics.json"))]
    if not records:
        return
    console.print(sweep_table(records))
    figure = sweep_figure(records, sweep_dir / "sweep.png")
    if figure is not None:
        console.print(f"figure: {figure}", soft_wrap=True)
    console.print(f"records: {sweep_dir}", soft_wrap=True)


def _make(cfg: DictConfig, key: str, **arguments: Any) -> Any:
    """Build one node, with arguments besides its own; a value that does not bind is told in one line."""
    node = OmegaConf.select(cfg, key)
    try:
        return instantiate(node, _convert_="all", _partial_=True)(**arguments)
    except InstantiationException as error:  # a node inside this one, or a target that does not exist
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, SaintpruneError):
            cause = cause.__cause__
        if isinstance(cause, SaintpruneError):
            raise cause from None
        where = str(error).rpartition("full_key: ")[2].strip() or key
        raise SaintpruneError(f"{where}: {_reason(OmegaConf.select(cfg, where), cause)}") from error
    except (TypeError, ValueError) as error:
        raise SaintpruneError(f"{key}: {_reason(node, error)}") from error


def _reason(node: Any, cause: BaseException) -> str:
    """Return the first line of an error; for a key that the class does not take, what it does take."""
    message = str(cause).strip().splitlines()[0]
    if not isinstance(cause, TypeError) or not OmegaConf.is_dict(node) or "_target_" not in node:
        return message
    target = get_object(node["_target_"])
    unknown = re.search(r"unexpected keyword argument '(\w+)'", message)
    if unknown is None:
        return _mistyped(node, target) or message
    known = [name for name in inspect.signature(target).parameters if name not in ("self", "kwargs")]
    key = unknown.group(1)
    return f"{target.__name__} has no {key!r}{did_you_mean(key, known)}; it takes {', '.join(known)}"


def _mistyped(node: Any, target: Any) -> str | None:
    """Return which value of a node is not of the type that its target declares; None if none is found."""
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    for key, value in node.items():
        hint = hints.get(key)
        allowed = set(get_args(hint)) or {hint}
        allowed |= {int} if float in allowed else set()
        if allowed <= {int, float, str, bool, type(None)} and type(value) not in allowed:
            return f"{key} is {value!r}, but must be {' or '.join(sorted(kind.__name__ for kind in allowed))}"
    return None


def _warn(parts: Parts) -> None:
    """Say what a newcomer would want to know before reading the figures."""
    calibrated = parts.plan.calibrated
    if calibrated is not None and calibrated.get("model") != parts.cfg.model.name:
        console.print(
            f"[yellow]note:[/yellow] pruning={parts.names['pruning']} was calibrated for {calibrated.get('model')};"
            f" thresholds do not transfer. For {parts.cfg.model.name}: task=calibrate calibration.target=…"
        )
    for path in parts.data.broken:
        console.print(f"[yellow]left out, cannot be read:[/yellow] {path}")


def _score(parts: Parts) -> Scores:
    """Score the test split with Lightning."""
    return score(
        parts.adapter,
        parts.plan,
        parts.data,
        num_classes=parts.model.num_classes,
        labelled=answers(parts.model, parts.data.classes),
        callbacks=[RichProgressBar()],
        **parts.hardware.trainer_arguments(),
    )


def _benchmark(parts: Parts) -> BenchmarkResult:
    """Time the network on images of the test split."""
    batches = _batches(parts, parts.data.test_dataloader(), parts.settings.batches * parts.hardware.batch_size)
    with _progress("timing") as advance:
        return Benchmark(parts.adapter, parts.plan, batches, parts.settings).run(advance)


def _calibrate(parts: Parts, target: Target) -> Calibrated:
    """Search on unlabelled images of the training split."""
    options = parts.cfg.calibration
    batches = _batches(parts, parts.data.train_dataloader(), options.samples)
    with _progress(f"calibrating to {target}") as advance:
        return Calibrator(parts.adapter, batches, options.pairs).search(parts.plan, target, options.steps, advance)


def _batches(parts: Parts, loader: Any, samples: int) -> list[Tensor]:
    """Return the first images of a loader as whole batches on the device."""
    batches: list[Tensor] = []
    for images, _ in loader:
        batches.append(images.to(parts.hardware.device, parts.hardware.dtype))
        if sum(len(batch) for batch in batches) >= samples:
            break
    whole = [batch for batch in batches if len(batch) == len(batches[0])]
    if not whole:
        raise SaintpruneError(f"dataset={parts.names['dataset']} has no images to measure with")
    return whole


@contextmanager
def _progress(what: str) -> Iterator[Callable[[float], None]]:
    """Show a progress bar; yield the function that moves it to a share of the work."""
    with Progress(console=console, transient=True) as bar:
        job = bar.add_task(what, total=1.0)
        yield lambda share: bar.update(job, completed=share)


def _save_pruning(parts: Parts, found: Calibrated, target: Target) -> str:
    """Write the calibrated pruning YAML beside the others; return what `pruning=` loads it by."""
    content = _container(parts.cfg.pruning)
    stage = content["stages"][found.stage]
    if found.knob == "method.threshold":
        stage["method"]["threshold"] = found.value
    else:
        stage["schedule"] = {"_target_": "saintprune.plan.Schedule", "drop": found.value}
    choice = parts.names["pruning"].split(" ")[0].rpartition("/")[2]
    content["calibrated"] = {
        "model": parts.cfg.model.name,
        "dataset": parts.names["dataset"],
        "target": str(target),
        "images": found.images,
        "measured": asdict(found.measured),
    }
    name = parts.cfg.calibration.save_as or f"{parts.cfg.model.name}/{choice}_{target.kind}{target.value:g}"
    header = f"# written by task=calibrate: {found.knob} of pruning={choice} for {target}\n"
    write_atomically(config_dir() / "pruning" / f"{name}.yaml", header + OmegaConf.to_yaml(OmegaConf.create(content)))
    return name


def _record(
    parts: Parts, scores: Scores | None, timing: BenchmarkResult | None, calibrated: Calibrated | None
) -> RunRecord:
    """Put together what the run was and what it found."""
    found = figures(
        asdict(scores) if scores else None, asdict(timing) if timing else None, parts.hardware.share_of_peak
    )
    return RunRecord(
        task=parts.cfg.task.value,
        model=parts.cfg.model.name,
        dataset=parts.names["dataset"],
        pruning=parts.names["pruning"],
        **found,
        calibration=calibrated.as_dict() if calibrated else None,
        hardware={**asdict(parts.hardware), "device": parts.hardware.device_name()},
        sources={
            "model": parts.model.source,
            "dataset_licence": parts.data.licence,
            "unreadable_images_left_out": list(parts.data.broken),
        },
        seed=parts.cfg.seed,
        config=_container(parts.cfg),
    )


def _container(node: DictConfig) -> dict[str, Any]:
    """Return a config node as plain data."""
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=True, enum_to_str=True))
