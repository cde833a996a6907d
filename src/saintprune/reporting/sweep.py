"""What the jobs of a sweep found, side by side, and which of them failed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from saintprune.files import write_atomically
from saintprune.reporting.loggers import log_sweep
from saintprune.reporting.plots import sweep_figure
from saintprune.reporting.records import RunRecord
from saintprune.reporting.results import Row, row, write_csv
from saintprune.reporting.tables import sweep_names, sweep_table

RECORD, FAILED = "metrics.json", "failed.json"  # in each job's folder
RESULTS, VARIED = "results.csv", "varied.json"  # in the sweep's


@dataclass(frozen=True)
class Failure:
    """A job that has no record.

    Attributes:
        overrides: of the job, KEY=VALUE each.
        error: why, in one line.
        traceback: where that is no mistake of the user's.
        fits: False where the pruning is for another kind of model, so that there was nothing to run.
    """

    overrides: list[str]
    error: str
    traceback: str | None = None
    fits: bool = True

    def line(self, varied: Sequence[str]) -> str:
        """Return one line that names the job by its overrides of the keys that the sweep varies."""
        return f"{self.name(varied)}: {self.error}"

    def name(self, varied: Sequence[str]) -> str:
        """Return the job's overrides of the keys that the sweep varies; all where it varies none."""
        named = [item for item in self.overrides if item.partition("=")[0] in varied]
        return " ".join(named or self.overrides) or "the only job"


@dataclass(frozen=True)
class SweepRow(Row):
    """One run of a sweep; its `record` is a path below the sweep's folder.

    Attributes:
        name: its pruning and what else tells it from the other runs, as in the sweep's table.
    """

    name: str


def keep_varied(folder: Path, keys: Sequence[str]) -> None:
    """Add to the keys that the jobs of a sweep differ in, in its folder, where its jobs find them on any machine.

    Raises:
        SaintpruneError: it could not be written.
    """
    known = dict.fromkeys([*kept_varied(folder), *keys])  # a sweep may go on with other values
    write_atomically(folder / VARIED, json.dumps(list(known)) + "\n")


def kept_varied(folder: Path) -> list[str]:
    """Return the keys that `keep_varied` was given; none where it was not called."""
    path = folder / VARIED
    return json.loads(path.read_text()) if path.is_file() else []


def forget_failures(folder: Path) -> None:
    """Delete what is kept of failed jobs below a sweep's folder, before its jobs run again."""
    for path in folder.glob(f"**/{FAILED}"):
        path.unlink()


def failures(folder: Path) -> dict[Path, Failure]:
    """Return the failed jobs below a sweep's folder, by file."""
    return {path: Failure(**json.loads(path.read_text())) for path in sorted(folder.glob(f"**/{FAILED}"))}


def left_out(failed: Iterable[Failure], varied: Sequence[str]) -> list[str]:
    """Return one line for each reason why jobs were left out that names them all; none where every pruning fits."""
    by_reason: dict[str, list[str]] = {}
    for failure in failed:
        if not failure.fits:
            by_reason.setdefault(failure.error, []).append(failure.name(varied))
    return [f"left out ({len(names)}): {reason}: {', '.join(names)}" for reason, names in by_reason.items()]


def summarise(folder: Path) -> int:
    """Print one table over the records below a folder, draw their figure there, and return how many there are.

    Of several records of one identity the first counts: jobs that differ in nothing that matters are one. Where the
    runs were logged to W&B, their comparison becomes a run of its own in their group.

    Raises:
        SaintpruneError: a file there is no record, or table or figure cannot be written.
    """
    found: dict[str | Path, tuple[Path, RunRecord]] = {}
    for path in sorted(folder.glob(f"**/{RECORD}"), key=_number):
        record = RunRecord.read(path)
        found.setdefault(record.identity or path, (path, record))
    if not found:
        return 0
    paths, records = (list(column) for column in zip(*found.values(), strict=True))
    console = Console()
    console.print(sweep_table(records))
    figure = sweep_figure(records, folder / "sweep.png")
    if figure is not None:
        console.print(f"figure: {figure}", soft_wrap=True)
    rows = [
        SweepRow(**asdict(row(record, str(path.relative_to(folder)))), name=name)
        for name, record, path in zip(sweep_names(records), records, paths, strict=True)
    ]
    table = write_csv(rows, folder / RESULTS)
    console.print(f"records: {folder}", soft_wrap=True)
    if (failed := log_sweep(records, rows, table, figure)) is not None:
        told = "[yellow]the records are there, but their comparison is not logged:[/yellow]"
        console.print(f"{told} {escape(failed)}", soft_wrap=True)
    return len(records)


def _number(path: Path) -> tuple[int, str]:
    """Return what records are sorted by: the number of the job, as folders are called after it."""
    number = path.parent.name.partition("-")[0]
    return int(number) if number.isdecimal() else 0, str(path)
