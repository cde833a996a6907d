"""What the runs of a sweep found, side by side."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from saintprune.reporting.loggers import log_sweep
from saintprune.reporting.plots import sweep_figure
from saintprune.reporting.records import RunRecord
from saintprune.reporting.results import row, write_csv
from saintprune.reporting.tables import sweep_table

RESULTS = "results.csv"


def summarise(folder: Path) -> None:
    """Print one table over the records below a folder and draw their figure there; nothing where there are none.

    Where the runs were logged to W&B, their comparison becomes a run of its own in their group.
    """
    paths = sorted(folder.glob("**/metrics.json"))
    records = [RunRecord.read(path) for path in paths]
    if not records:
        return
    console = Console()
    console.print(sweep_table(records))
    figure = sweep_figure(records, folder / "sweep.png")
    if figure is not None:
        console.print(f"figure: {figure}", soft_wrap=True)
    rows = [row(record, str(path.relative_to(folder))) for record, path in zip(records, paths, strict=True)]
    table = write_csv(rows, folder / RESULTS)
    console.print(f"records: {folder}", soft_wrap=True)
    if (failed := log_sweep(records, rows, table, figure)) is not None:
        console.print(f"[yellow]the records are there, but their comparison is not logged:[/yellow] {failed}")
