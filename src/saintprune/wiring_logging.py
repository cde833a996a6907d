"""What `wiring` does so that a run can be seen elsewhere: its logger, and the pictures that a logger can show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saintprune import wiring_analysis
from saintprune.analysis.figures.pictures import survivors_figure
from saintprune.analysis.settings import AnalysisSettings
from saintprune.binding import make
from saintprune.errors import SaintpruneError
from saintprune.parts import Parts, console
from saintprune.reporting.logged import Logged
from saintprune.reporting.loggers import group_of, log_run, shows_pictures
from saintprune.reporting.records import RunRecord


def open_logger(cfg: Any, output_dir: Path, sweep: Path | None) -> Any:
    """Return the run's logger; in a sweep, one that has groups is in the group of the sweep.

    Raises:
        SaintpruneError: it is not installed, or does not take what the config says.
    """
    if sweep is None or cfg.logger.get("group", "") is not None:  # no sweep, another group, or no such key
        return make(cfg, "logger", save_dir=str(output_dir))
    return make(cfg, "logger", save_dir=str(output_dir), group=group_of(sweep))


def log(logger: Any, record: RunRecord, path: Path, parts: Parts, settings: AnalysisSettings) -> None:
    """Log a run whose record is written; whatever goes wrong costs a line, not the record."""
    try:
        if shows_pictures(logger) and record.analysis is None:
            draw_survivors(parts, settings, path.parent / "figures")
        failed = log_run(logger, Logged.of(record, path))
    except (SaintpruneError, OSError) as error:
        failed = str(error)
    if failed is not None:
        console.print(f"[yellow]the record is written, but not logged:[/yellow] {failed}", soft_wrap=True)


def draw_survivors(parts: Parts, settings: AnalysisSettings, folder: Path) -> None:
    """Draw which patches the plan leaves of the first images, one picture per site; none where there are no images."""
    shown = wiring_analysis.pictures_of(parts, settings)
    if shown is None:
        return
    for site, left in shown.left.items():
        title = f"Patches that pruning={shown.plan_name} leaves, {site}"
        path = folder / f"survivors_{site}.png"
        survivors_figure(shown.images, left, shown.grid, path, mean=shown.mean, std=shown.std, title=title)
