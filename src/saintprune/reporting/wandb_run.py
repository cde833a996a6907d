"""What a W&B run shows: the record, tokens and curves layer by layer, pictures, and the comparison of a sweep.

wandb is imported where it is used: it need not be installed.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from saintprune.reporting.logged import OWN, LayerCurves, Logged, token_curves
from saintprune.reporting.results import Row, row

CELL = {"model": "model_name", "dataset": "dataset_name", "method": "method", "target": "target", "status": "status"}
LAYER = "layer"


def log(run: Any, logged: Logged) -> None:
    """Log all that a run has to show.

    Args:
        run: a started `wandb.Run`.
        logged: what to log.
    """
    cell, record = asdict(row(logged.record, logged.path.name)), logged.record
    run.name = f"{record.model} {record.dataset} {record.pruning}"
    run.config.update({key: cell[name] for name, key in CELL.items()})  # dashboards group and filter by them
    content = json.loads(logged.path.read_text(encoding="utf-8"))
    run.summary.update({"record": {name: value for name, value in content.items() if name != "config"}})
    _attach(run, logged.path, "record", cell)
    for kind, arms in token_curves(record).items():
        _log_layers(run, "tokens", f"{kind}_table", {f"{kind}_{arm}": values for arm, values in arms.items()})
    for curves in logged.curves:
        _log_curves(run, curves)
    _log_pictures(run, logged.pictures)


def log_comparison(run: Any, rows: Sequence[Row], table: Path, pictures: Mapping[str, Path]) -> None:
    """Log what the runs of a sweep found, side by side.

    Args:
        run: a started `wandb.Run`, in the group of the sweep.
        rows: one per run of it.
        table: the same as CSV.
        pictures: name -> PNG.
    """
    import wandb

    names: list[Any] = [field.name for field in fields(rows[0])]
    data: list[Any] = [[getattr(one, name) for name in names] for one in rows]
    run.name = "comparison"
    run.log({"comparison": wandb.Table(columns=names, data=data, allow_mixed_types=True)})
    _attach(run, table, "comparison", {"runs": len(rows)})
    _log_pictures(run, pictures)


def close() -> None:
    """End the run that is open, if any, so that the next one of this process is a run of its own."""
    wandb = sys.modules.get("wandb")  # where it is not imported, there is none
    if wandb is not None and getattr(wandb, "run", None) is not None:
        wandb.finish()


def _attach(run: Any, path: Path, kind: str, metadata: dict[str, Any]) -> None:
    """Put a file into the run's own folder and make it an artifact, so that the folder alone can be synced later."""
    import wandb

    copied = Path(run.dir) / f"{kind}{path.suffix}"  # never metrics.json, which marks the folder of a run
    shutil.copyfile(path, copied)
    artifact = wandb.Artifact(f"{kind}-{run.id}", type=kind, metadata=metadata)
    artifact.add_file(str(copied), policy="immutable")  # the copy is it; none goes to a cache elsewhere
    run.log_artifact(artifact)


def _log_curves(run: Any, curves: LayerCurves) -> None:
    """Log the curves of one network of an analysis; those of random weights carry the network in their name."""
    suffix = "" if curves.network == OWN else f" ({curves.network})"
    values = {f"{name}{suffix}": values for name, values in curves.values.items()}
    _log_layers(run, f"curves/{curves.part.replace('/', '-')}", f"table{suffix}", values)


def _log_layers(run: Any, section: str, table: str, series: Mapping[str, Sequence[float]]) -> None:
    """Log series over layers twice: as points whose horizontal axis is the layer, and as one table."""
    import wandb

    axis = f"{section}/{LAYER}"
    named = {f"{section}/{name.replace('.', '_')}": values for name, values in series.items()}  # a dot would nest
    run.define_metric(axis, hidden=True)
    for name in named:
        run.define_metric(name, step_metric=axis, step_sync=False)
    rows = list(zip(*named.values(), strict=True))
    for layer, values in enumerate(rows):
        known = {name: value for name, value in zip(named, values, strict=True) if value == value}
        run.log({axis: layer, **known})
    data: list[Any] = [[layer, *(None if value != value else value for value in row)] for layer, row in enumerate(rows)]
    run.log({f"{section}/{table}": wandb.Table(columns=[LAYER, *series], data=data)})


def _log_pictures(run: Any, pictures: Mapping[str, Path]) -> None:
    """Log PNGs."""
    import wandb

    for name, path in pictures.items():
        run.log({f"pictures/{name}": wandb.Image(str(path), caption=name)})
