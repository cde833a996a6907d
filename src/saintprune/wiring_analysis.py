"""What `wiring` does for task=analyze, and how a plan's named stages become block numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from saintprune.adapters.base import ViTAdapter
from saintprune.analysis.report import Report, write_report
from saintprune.analysis.sensitivity import Sensitivity, drop_sensitivity
from saintprune.analysis.settings import AnalysisSettings
from saintprune.analysis.show import Shown, show
from saintprune.analysis.stage_file import locate, read_stages, stages_content, write_stages
from saintprune.analysis.study import Part, Twin, first, study
from saintprune.analysis.twins import shuffled
from saintprune.binding import make
from saintprune.config import config_file, own_config_dir
from saintprune.data.vqa import VQAData
from saintprune.errors import SaintpruneError
from saintprune.hardware import HardwareProfile
from saintprune.parts import Parts, console, progress
from saintprune.plan import Plan
from saintprune.reporting.records import package_versions, source_commit

IMAGES_FOR_SENSITIVITY = 64


def is_language(model: Any) -> bool:
    """Return whether a loader gave a model that only reads text."""
    return hasattr(model, "tokenizer")


def build(cfg: Any, names: dict[str, str], hardware: HardwareProfile, plan: Plan, settings: Any, model: Any) -> Parts:
    """Put together the parts of a run with a model that only reads text, given those that do not depend on it.

    Raises:
        SaintpruneError: the task is not to analyse it, or the dataset is no text.
    """
    if cfg.task.value != "analyze":
        raise SaintpruneError(f"model={cfg.model.name} has no image tokens to prune: it is there for task=analyze")
    if "tokens" not in cfg.dataset:
        raise SaintpruneError(
            f"model={cfg.model.name} reads text, but dataset={names['dataset']} has none: choose dataset=text"
        )
    data = make(
        cfg, "dataset", tokenizer=model.tokenizer, batch_size=hardware.batch_size, num_workers=hardware.num_workers
    )
    data.setup()
    hardware.prepare(model.net)
    adapter = make(cfg, "model.adapter", net=model.net)
    return Parts(cfg, names, hardware, hardware.device, data, model, adapter, plan, settings)


def stages_path(model: str) -> Path:
    """Return where the stages of a model are kept for plans to use."""
    return config_file(f"stages/{model}.yaml")


def located(plan: Plan, model: str) -> Plan:
    """Return the plan with block numbers where it names stages that the analysis of the model found.

    Raises:
        SaintpruneError: the model was not analysed, or the analysis says nothing about the site.
    """

    def blocks(name: str, site: str) -> tuple[int, ...]:
        found = locate(read_stages(stages_path(model)), name, site)
        if found.note is not None:
            console.print(f"[yellow]note:[/yellow] {found.note}", soft_wrap=True)
        return found.blocks

    return plan.located(blocks)


def analyze(parts: Parts, settings: AnalysisSettings, folder: Path) -> dict[str, Any]:
    """Trace, find stages, measure what dropping costs block by block, and write all of it into a folder.

    Returns:
        What the record keeps: the verdicts, the sensitivity, and the seconds that each step took.
    """
    _samples_to_drop(parts, settings)  # what cannot be measured is told before minutes of tracing
    started, seconds = time.perf_counter(), {}
    meta = _meta(parts, settings)
    with progress("tracing") as advance:
        studied = study_parts(parts, settings, advance)
    seconds["trace_and_stages"] = time.perf_counter() - started
    with progress("dropping at one block at a time") as advance:
        rows = sensitivity(parts, settings, advance=advance)
    seconds["sensitivity"] = time.perf_counter() - started - sum(seconds.values())
    content = stages_content(
        [part.verdict for part in studied],
        [part.raw for part in studied],
        **meta,
        record=_relative(folder / "metrics.json"),
    )
    write_stages(folder / "stages.yaml", content)
    pictures = pictures_of(parts, settings)
    title = f"How tokens change in {meta['model']} ({meta['dataset']}, {settings.split} split)"
    page = write_report(folder, Report(title, studied, rows, pictures, settings.site, _provenance(parts, meta)))
    _tell(parts, studied, content, settings, page)
    samples = max(part.curves.images for part in studied)
    return {
        "samples": samples,
        "parts": content["parts"],
        "sensitivity": [row.as_dict() for row in rows],
        "seconds": seconds,
    }


def study_parts(
    parts: Parts, settings: AnalysisSettings, advance: Callable[[float], None] = lambda share: None
) -> list[Part]:
    """Trace the network of a run and its random twins, and look for stages in each of its parts."""
    return study(
        parts.adapter,
        partial(_batches, parts, settings),
        _twins(parts, settings.twins),
        settings,
        meta=_meta(parts, settings),
        seed=parts.cfg.seed,
        advance=advance,
    )


def _meta(parts: Parts, settings: AnalysisSettings) -> dict[str, Any]:
    """Return what curves and files say about where they come from."""
    return {"model": parts.cfg.model.name, "dataset": parts.data.name, "split": settings.split}


def _batches(parts: Parts, settings: AnalysisSettings) -> Iterable[Any]:
    """Return the loader of the split that is analysed."""
    return parts.data.train_dataloader() if settings.split == "train" else parts.data.test_dataloader()


def _twins(parts: Parts, number: int) -> dict[str, Twin]:
    """Return what makes networks of the same architecture with random weights."""

    def adapted(net: Any) -> Any:
        parts.hardware.prepare(net)
        return make(parts.cfg, "model.adapter", net=net)

    def initialised(seed: int) -> Any:
        loaded = make(parts.cfg, "model.net", pretrained=False, checkpoint=None, seed=seed)
        return adapted(loaded.net)

    found: dict[str, Twin] = {}
    for index in range(number):
        seed = parts.cfg.seed + 1 + index
        found[f"initialised {index}"] = partial(initialised, seed)
        found[f"shuffled {index}"] = lambda seed=seed: adapted(shuffled(parts.model.net, seed))
    return found


def _samples_to_drop(parts: Parts, settings: AnalysisSettings) -> int:
    """Return on how many images a share is dropped at one block at a time."""
    if settings.sensitivity is None:
        return IMAGES_FOR_SENSITIVITY if isinstance(parts.adapter, ViTAdapter) else 0
    if settings.sensitivity and is_language(parts.model):
        raise SaintpruneError(
            f"analysis.sensitivity is {settings.sensitivity}, but model={parts.cfg.model.name} has no image tokens to"
            " drop: leave it out"
        )
    return settings.sensitivity


def sensitivity(
    parts: Parts,
    settings: AnalysisSettings,
    *,
    layers: Sequence[int] | None = None,
    advance: Callable[[float], None] = lambda share: None,
) -> list[Sensitivity]:
    """Drop a share at one block at a time, where that is asked for; `layers` None is all blocks.

    Raises:
        SaintpruneError: the model has no image tokens, or the layers or the site are not there.
    """
    samples = _samples_to_drop(parts, settings)
    if not samples:
        return []
    return drop_sensitivity(
        parts.adapter,
        first(_batches(parts, settings), samples),
        share=settings.share,
        layers=layers,
        site=settings.site,
        classifies=not isinstance(parts.adapter, ViTAdapter) or parts.model.num_classes > 0,
        advance=lambda images: advance(min(1.0, images / samples)),
    )


def pictures_of(parts: Parts, settings: AnalysisSettings) -> Shown | None:
    """Return what is to be seen of the first images; None where there are none."""
    noise = not isinstance(parts.adapter, ViTAdapter) and not isinstance(parts.data, VQAData)
    if not settings.pictures or is_language(parts.model) or noise:
        return None
    batch, model = next(iter(_batches(parts, settings))), parts.model
    if isinstance(parts.adapter, ViTAdapter):
        mean, std = model.mean, model.std
    else:
        pixels = model.processor.image_processor
        mean, std = pixels.image_mean, pixels.image_std
    return show(
        parts.adapter, parts.plan, batch, settings.pictures, mean=mean, std=std, plan_name=parts.names["pruning"]
    )


def _relative(path: Path) -> str:
    """Return a path as seen from here, where it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _provenance(parts: Parts, meta: dict[str, Any]) -> dict[str, Any]:
    """Return what the page says about where it comes from."""
    return {
        **meta,
        "pruning (pictures only)": parts.names["pruning"],
        "licence of the data": parts.data.licence,
        "weights": dict(parts.model.source),
        "seed": parts.cfg.seed,
        "commit": source_commit(),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": package_versions(),
    }


def _tell(parts: Parts, studied: Any, content: Any, settings: AnalysisSettings, page: Path) -> None:
    """Print the verdicts, and keep the stages where plans look for them."""
    for part in studied:
        answer = "[green]three stages[/green]" if part.verdict.three_stages else "[yellow]no three stages[/yellow]"
        console.print(f"[bold]{part.name}[/bold]: {answer}", soft_wrap=True)
        console.print(f"  {part.verdict.reason}", soft_wrap=True, markup=False)
        console.print(f"  by raw cosines: {part.raw.reason}", soft_wrap=True, markup=False)
    kept = stages_path(parts.cfg.model.name)
    if settings.save or (settings.save is None and not kept.exists()):
        kept = write_stages(own_config_dir() / "stages" / kept.name, content)
        console.print(f"stages, for plans with layers=NAME: {kept}", soft_wrap=True)
    elif kept.exists():
        console.print(f"stages kept as they were (analysis.save=true replaces them): {kept}", soft_wrap=True)
    console.print(f"page: {page}", soft_wrap=True)
