"""What a cascade costs and keeps at several margins and strengths of its first pass, on training images.

    python scripts/choose_margin.py RECORD.json pruning=ward [KEY=VALUE ...]    as for run.py, such as model=vit_s14

The first pass is calibrated to several shares of the FLOPs; an image whose margin between the two likeliest classes is
below `pruning.defer` costs a whole unpruned pass more and gets the unpruned answer. From one look at the images follow
all margins. No test image is looked at.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import track
from rich.table import Table
from torch import Tensor

from saintprune.adapters.cascade import margins
from saintprune.calibration.search import Calibrator, OutOfReach
from saintprune.calibration.targets import Target
from saintprune.errors import SaintpruneError
from saintprune.parts import console
from saintprune.reporting.records import write_figures
from saintprune.workbench import open_run, outputs, training_images

IMAGES = 256
FIRST = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)  # FLOPs of the first pass
MARGINS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)


def main(path: Path, overrides: list[str]) -> None:
    """Measure, print the table and write the record."""
    parts = open_run(*overrides)
    if parts.model.num_classes < 2:
        raise SaintpruneError(
            "a cascade asks how sure a classifier is, but this network gives features: see model.head"
        )
    batches = training_images(parts, IMAGES)
    calibrator = Calibrator(parts.adapter, batches[:1])
    once = replace(parts.plan, defer=None)
    unpruned = outputs(parts, batches)
    rows: list[dict[str, Any]] = []
    for flops in track(FIRST, description="first passes", console=console):
        try:
            found = calibrator.search(once, Target("flops", flops))
        except OutOfReach as error:
            rows.append({"first": flops, "out_of_reach": str(error)})
            continue
        pruned = outputs(parts, batches, found.plan)
        rows += [cascade(found.measured.flops, margin, pruned, unpruned) for margin in MARGINS]
    record = {
        "what": "cost (share of the unpruned FLOPs, both passes) and same answers of a cascade, on training images",
        "model": parts.cfg.model.name,
        "dataset": parts.names["dataset"],
        "pruning": parts.names["pruning"],
        "images": len(unpruned),
        "rows": rows,
    }
    write_figures(path, record)
    show(rows)


def cascade(first: float, margin: float, pruned: Tensor, unpruned: Tensor) -> dict[str, Any]:
    """Return what a cascade costs and keeps.

    Args:
        first: share of the FLOPs of the first pass.
        margin: below which an image is deferred.
        pruned: [images, classes], logits of the first pass.
        unpruned: [images, classes].
    """
    deferred = margins(pruned) < margin
    same = (pruned.argmax(1) == unpruned.argmax(1)) | deferred
    share = deferred.double().mean().item()
    return {
        "first": first, "margin": margin, "deferred": share, "cost": first + share,
        "agreement": same.double().mean().item(),
    }  # fmt: skip


def show(rows: list[dict[str, Any]]) -> None:
    """Print cost and same answers, a row per first pass and a column per margin."""
    table = Table(title="cost: same answers, by margin")
    measured = [row for row in rows if "margin" in row]
    for name in ("first pass", *(f"{margin:g}" for margin in MARGINS)):
        table.add_column(name, justify="right")
    for first in dict.fromkeys(row["first"] for row in measured):
        cells = [f"{row['cost']:.2f}: {row['agreement']:.1%}" for row in measured if row["first"] == first]
        table.add_row(f"{first:.2f}", *cells)
    console.print(table)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    try:
        main(Path(sys.argv[1]), sys.argv[2:])
    except SaintpruneError as error:
        raise SystemExit(str(error)) from error
