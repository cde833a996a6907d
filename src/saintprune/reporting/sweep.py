"""What the runs of a sweep found, side by side."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from saintprune.reporting.plots import sweep_figure
from saintprune.reporting.records import RunRecord
from saintprune.reporting.tables import sweep_table


def summarise(folder: Path) -> None:
    """Print one table over the records below a folder and draw their figure there; nothing where there are none."""
    records = [RunRecord.read(path) for path in sorted(folder.glob("**/metrics.json"))]
    if not records:
        return
    console = Console()
    console.print(sweep_table(records))
    figure = sweep_figure(records, folder / "sweep.png")
    if figure is not None:
        console.print(f"figure: {figure}", soft_wrap=True)
    console.print(f"records: {folder}", soft_wrap=True)
