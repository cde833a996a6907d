"""What `wiring` does so that a run can be seen elsewhere: its logger, and the pictures that a logger can show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from saintprune import wiring_analysis
from saintprune.analysis.figures.pictures import survivors_figure
from saintprune.analysis.settings import AnalysisSettings
from saintprune.binding import make
from saintprune.errors import one_line
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
    """Log a run whose record is written; whatever goes wrong costs a line, not the record.

    Pictures that cannot be drawn cost a line of their own: all else is logged without them.
    """
    if shows_pictures(logger) and record.analysis is None:
        try:
            draw_survivors(parts, settings, path.parent / "figures")
        except Exception as error:  # there is nothing to show: noise for a language model, a layer that prunes nothing
            _tell("the run is logged without pictures", one_line(error))
    try:
        failed = log_run(logger, Logged.of(record, path))
    except Exception as error:  # what lies beside the record cannot be read
        failed = one_line(error)
    if failed is not None:
        _tell("the record is written, but not logged", failed)


def draw_survivors(parts: Parts, settings: AnalysisSettings, folder: Path) -> None:
    """Draw which patches the plan leaves of the first test images, one picture per site; none where there are no
    images.
    """
    shown = wiring_analysis.pictures_of(parts, replace(settings, split="test"))  # a run need not have training images
    if shown is None:
        return
    for site, left in shown.left.items():
        title = f"Patches that pruning={shown.plan_name} leaves, {site}"
        path = folder / f"survivors_{site}.png"
        survivors_figure(shown.images, left, shown.grid, path, mean=shown.mean, std=shown.std, title=title)


def _tell(what: str, reason: str) -> None:
    console.print(f"[yellow]{what}:[/yellow] {escape(reason)}", soft_wrap=True)
