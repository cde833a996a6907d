"""What a cascade costs and keeps at several margins and strengths of its first pass, on training images.

    python scripts/choose_margin.py RECORD.json pruning=ward [KEY=VALUE ...]    as for run.py, such as model=vit_s14

The first pass is calibrated to several shares of the FLOPs, or, where the pruning resizes (pruning=glance), sees images
at several sizes and drops several shares; an image whose margin between the two likeliest classes is below
`pruning.defer` costs a whole unpruned pass more and gets the unpruned answer. From one look at the images follow all
margins. No test image is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
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
from saintprune.plan import Plan, Schedule
from saintprune.study_script import open_images, run_script, write_study
from saintprune.workbench import outputs, training_images

IMAGES = 256
FIRST = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)  # FLOPs of the first pass
SIZES, DROPS = tuple(side / 16 for side in (8, 9, 10, 12, 14, 16)), (0.0, 0.7, 0.8, 0.9, 0.95)
MARGINS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)


def main(path: Path, overrides: list[str]) -> None:
    """Measure, print the table and write the record."""
    parts = open_images(*overrides)
    if parts.model.num_classes < 2:
        raise SaintpruneError(
            "a cascade asks how sure a classifier is, but this network gives features: see model.head"
        )
    batches = training_images(parts, IMAGES)
    calibrator = Calibrator(parts.adapter, batches[:1])
    once = replace(parts.plan, defer=None, second=None)
    unpruned = outputs(parts, batches)
    rows: list[dict[str, Any]] = []
    for first, plan in track(list(firsts(once)), description="first passes", console=console):
        if "flops" in first:
            try:
                plan = calibrator.search(plan, Target("flops", first["flops"])).plan
            except OutOfReach as error:
                rows.append({**first, "out_of_reach": str(error)})
                continue
        cost, pruned = calibrator.measure(plan, timed=False).flops, outputs(parts, batches, plan)
        rows += [first | cascade(cost, margin, pruned, unpruned) for margin in MARGINS]
    what = "cost (share of the unpruned FLOPs, both passes) and same answers of a cascade, on training images"
    write_study(path, parts, what, images=len(unpruned), rows=rows)
    show(rows)


def firsts(once: Plan) -> Iterator[tuple[dict[str, Any], Plan]]:
    """Yield what tells the first passes apart, and their plans: to be calibrated where that is a share of the FLOPs."""
    if once.resize is None:
        yield from (({"flops": flops}, once) for flops in FIRST)
        return
    for size, drop in product(SIZES, DROPS if once.stages else (0.0,)):
        stages = {
            name: replace(stage, schedule=Schedule.dropping(drop, stage.schedule))
            for name, stage in once.stages.items()
        }
        yield {"resize": size, "drop": drop}, replace(once, stages=stages if drop else {}, resize=size)


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
    for name in ("first pass", *(f"{margin:g}" for margin in MARGINS)):
        table.add_column(name, justify="right")
    passes: dict[str, list[str]] = {}
    for row in rows:
        if "margin" in row:
            name = ", ".join(f"{key} {row[key]:g}" for key in ("flops", "resize", "drop") if key in row)
            passes.setdefault(name, []).append(f"{row['cost']:.2f}: {row['agreement']:.1%}")
    for name, cells in passes.items():
        table.add_row(name, *cells)
    console.print(table)


if __name__ == "__main__":
    run_script(main, __doc__)
