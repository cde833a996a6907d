"""What the scripts of studies share: the network of images that they open, their record, and how they end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from saintprune.errors import SaintpruneError
from saintprune.models.loaded import LoadedModel
from saintprune.parts import Parts
from saintprune.reporting.records import write_figures
from saintprune.wiring import what_was_run
from saintprune.workbench import open_run


def open_images(*overrides: str) -> Parts:
    """Return the parts of a run of a network that looks at images alone.

    Args:
        *overrides: see `open_run`.

    Raises:
        SaintpruneError: the network reads text, or what `open_run` raises.
    """
    parts = open_run(*overrides)
    if not isinstance(parts.model, LoadedModel):
        raise SaintpruneError(
            f"model={parts.cfg.model.name} reads text, but this script is for networks of images alone: take one such"
            " as model=vit_s14"
        )
    return parts


def write_study(path: Path, parts: Parts, what: str, **figures: Any) -> None:
    """Write what a script found as JSON, with what was run: config, hardware, sources, commit; whole or not at all.

    Args:
        path: of the record.
        parts: of the run.
        what: the figures are.
        **figures: JSON-ready.

    Raises:
        SaintpruneError: it could not be written, or a figure is not a finite number.
    """
    about = {
        "what": what,
        "model": parts.cfg.model.name,
        "dataset": parts.data.name,
        "pruning": parts.names["pruning"],
    }
    write_figures(path, about | figures | what_was_run(parts))


def run_script(work: Callable[[Path, list[str]], object], usage: str | None) -> None:
    """Do the work of a script whose arguments are RECORD.json and overrides; without a record, exit with its usage.

    Args:
        work: is given the path of the record and the overrides; its `SaintpruneError` becomes one line.
        usage: of the script.
    """
    arguments = sys.argv[1:]
    if not arguments or not arguments[0].endswith(".json"):
        sys.exit(usage)
    try:
        work(Path(arguments[0]), arguments[1:])
    except SaintpruneError as error:
        sys.exit(f"error: {error}")
