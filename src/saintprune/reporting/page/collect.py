"""Find records in files and folders; what cannot be read costs a line, not the report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from saintprune.errors import SaintpruneError
from saintprune.reporting.logged import LayerCurves, read_curves, token_curves
from saintprune.reporting.records import RunRecord
from saintprune.reporting.results import Row, row

RECORD = "metrics.json"  # of a run; comparisons name theirs PRUNING@TARGET.json
HIDDEN = {"wandb", ".hydra", "csv", "curves", "tensorboard"}  # below them lie copies and parts of records
UNFINISHED = "the run left no record: it failed, was killed, or is still at work"


@dataclass(frozen=True)
class Entry:
    """A record that can be shown.

    Attributes:
        path: of the file, as it was given.
        record: as read.
        row: its figures.
        budget: what it was pruned to: a target, or the folder that its pruning stands in; "" where there is none.
        method: its pruning without model and budget.
        tokens: see `logged.token_curves`.
        curves: of task=analyze.
        overrides: of the command line, where Hydra kept them.
    """

    path: str
    record: RunRecord
    row: Row
    budget: str
    method: str
    tokens: dict[str, dict[str, list[float]]]
    curves: list[LayerCurves]
    overrides: list[str] | None

    @property
    def name(self) -> str:
        """Return what the run is called in tables."""
        seed = f", seed {self.row.seed}" if self.row.seed else ""
        return (f"{self.method} ({self.budget})" if self.budget else self.method) + seed

    @property
    def collection(self) -> str:
        """Return the folder whose records were made to be compared: of a comparison, or of a sweep's runs."""
        path = Path(self.path)
        return str(path.parent.parent if path.name == RECORD else path.parent)


@dataclass(frozen=True)
class Problem:
    """A file or folder that holds no record that can be shown, and why."""

    path: str
    reason: str


def collect(paths: Iterable[Path]) -> tuple[list[Entry], list[Problem]]:
    """Return what records there are in files and below folders, each once.

    Raises:
        SaintpruneError: there is no such file or folder.
    """
    entries: list[Entry] = []
    problems: list[Problem] = []
    seen: set[Path] = set()
    for given in paths:
        if not given.exists():
            raise SaintpruneError(f"there is no {given}: give the folder of a run, of a sweep or of records")
        unfinished = [] if given.is_file() else _without_record(given)
        for path in [given] if given.is_file() else [*_candidates(given), *unfinished]:
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            found = Problem(str(path), UNFINISHED) if path in unfinished else _entry(path, named=given == path)
            if isinstance(found, Entry):
                entries.append(found)
            elif found is not None:
                problems.append(found)
    entries.sort(key=lambda one: (one.record.model, one.record.dataset, one.method, one.budget, one.row.seed or 0))
    return entries, problems


def _candidates(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*.json")):
        if not HIDDEN & set(path.relative_to(folder).parts[:-1]):
            yield path


def _without_record(folder: Path) -> list[Path]:
    """Return the folders of runs that began and left no record."""
    begun = (path.parent.parent for path in folder.rglob(".hydra/config.yaml"))
    return sorted(run for run in begun if not (run / RECORD).exists())


def _entry(path: Path, named: bool) -> Entry | Problem | None:
    """Return a record, or why it cannot be shown; None is another JSON file that nobody asked for."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not named and path.name != RECORD and not (isinstance(content, dict) and "schema_version" in content):
            return None
        record = RunRecord.read(path)
        figures = row(record, path.name)
        method, budget = _method_and_budget(record, figures)
        for arm in (record.baseline, record.pruned):
            arm.get("accuracy")
        return Entry(
            str(path), record, figures, budget, method, token_curves(record), read_curves(path.parent)
            if record.analysis else [], _overrides(path.parent),
        )  # fmt: skip
    except SaintpruneError as error:
        return Problem(str(path), str(error).removeprefix(f"{path} "))
    except (OSError, ValueError) as error:
        return Problem(str(path), f"is not JSON that can be read: {error}")
    except (TypeError, AttributeError, KeyError) as error:
        return Problem(str(path), f"is only part of a record: {error}")


def _method_and_budget(record: RunRecord, figures: Row) -> tuple[str, str]:
    """Return the pruning's own name, and its budget: "drop50/saint_hybrid" -> "saint_hybrid", "drop50"."""
    folder, _, name = figures.method.rpartition("/")
    budget = figures.target or (folder if folder != record.model else "")
    changes = [change for change in record.pruning.split(" ")[1:] if not change.startswith(("target=", "seed="))]
    return " ".join([name, *changes]), budget


def _overrides(folder: Path) -> list[str] | None:
    """Return what was given on the command line of a run, where Hydra kept it."""
    path = folder / ".hydra" / "overrides.yaml"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return None
    return [str(item) for item in found] if isinstance(found, Sequence) and not isinstance(found, str) else None
