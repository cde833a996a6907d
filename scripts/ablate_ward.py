"""What each part of `pruning=ward` brings, on training images and at one share of the FLOPs.

    python scripts/ablate_ward.py RECORD.json [KEY=VALUE ...]      as for run.py, such as model=vit_s14 hardware=cpu

Each variant's schedule is calibrated to the same FLOPs. Besides the share of answers that stay, the record holds the
root mean square error of the logits, which tells variants apart that few images separate. No test image is looked at.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import track
from torch import Tensor

from saintprune.calibration.search import Calibrator, OutOfReach
from saintprune.calibration.targets import Target
from saintprune.parts import Parts
from saintprune.plan import Plan, Schedule
from saintprune.reduction.tome import ToMe
from saintprune.reduction.ward import Ward
from saintprune.study_script import open_images, run_script, write_study
from saintprune.workbench import outputs, training_images

IMAGES, CALIBRATED_ON = 256, 2  # with a schedule, FLOPs are the same for every image
EVEN, CURVED = Schedule(drop=0.9), Schedule(drop=0.9, steepness=2.2)
FLATTER, STEEPER = Schedule(drop=0.9, steepness=1.5), Schedule(drop=0.9, steepness=3.0)
WARDS = "::2"  # the blocks of pruning=ward
MERGES = 20  # of a block, where it is looked for the place of ToMe's error
PLACES = {
    f"ToMe, {MERGES} merges a block, blocks {layers} alone": Plan.vision(ToMe(r=MERGES), layers)
    for layers in ("0:4", "4:8", "8:12")
}


def tome(schedule: Schedule, layers: str = "all", **stage: Any) -> Plan:
    """Return ToMe as it was published, on a schedule."""
    return Plan.vision(ToMe(), layers, schedule=schedule, **stage)


def ward(schedule: Schedule = CURVED, method: Ward = Ward(), layers: str = WARDS, **stage: Any) -> Plan:  # noqa: B008
    """Return `pruning=ward` with one part changed."""
    return Plan.vision(method, layers, schedule=schedule, **{"spread": True, **stage})


BUDGETS = {
    0.5: {
        "ToMe, even": tome(EVEN),
        "ToMe, even, with spread": tome(EVEN, spread=True),
        "ToMe, ward's blocks and schedule": tome(CURVED, WARDS),
        "ward, even": ward(EVEN),
        "ward": ward(),
        "ward, every block": ward(layers="all"),
        "ward, every third block": ward(layers="::3"),
        "ward, without spread": ward(spread=False),
        "ward, steepness 1.5": ward(FLATTER),
        "ward, steepness 3": ward(STEEPER),
        "ward, without attention": ward(method=Ward(power=0.0)),
        "ward, attention in full": ward(method=Ward(power=1.0)),
        "ward, one matching": ward(method=Ward(share=0.5)),
        "ward, more rounds": ward(method=Ward(share=0.05)),
        "ward, no proportional attention": ward(proportional_attention=False),
    },
    0.67: {
        "ToMe, even": tome(EVEN),
        "ward, even": ward(EVEN),
        "ward": ward(),
        "ward, every block": ward(layers="all"),
        "ward, every third block": ward(layers="::3"),
        "ward, without spread": ward(spread=False),
    },
    0.33: {
        "ToMe, even, first half": tome(EVEN, "first_half"),
        "ToMe, ward's blocks and schedule": tome(CURVED, WARDS),
        "ward, even, first half": ward(EVEN, layers="first_half"),
        "ward": ward(),
        "ward, every block": ward(layers="all"),
        "ward, every third block": ward(layers="::3"),
        "ward, without spread": ward(spread=False),
        "ward, steepness 1.5": ward(FLATTER),
    },
}


def main(path: Path, overrides: list[str]) -> None:
    """Measure every variant and write the record."""
    parts = open_images("pruning=none", *overrides)
    batches = training_images(parts, IMAGES)
    calibrator = Calibrator(parts.adapter, [batches[0][:CALIBRATED_ON]])
    unpruned = outputs(parts, batches)
    rows: list[dict[str, Any]] = []
    planned = [(None, *variant) for variant in PLACES.items()]
    planned += [(flops, *variant) for flops, variants in BUDGETS.items() for variant in variants.items()]
    for flops, name, plan in track(planned, description="variants"):
        rows.append({"flops": flops, "variant": name} | measured(parts, calibrator, batches, unpruned, plan, flops))
        print(rows[-1], flush=True)
    what = "parts of pruning=ward exchanged one by one, on training images"
    write_study(path, parts, what, images=len(unpruned), variants=rows)


def measured(
    parts: Parts, calibrator: Calibrator, batches: list[Tensor], unpruned: Tensor, plan: Plan, flops: float | None
) -> dict[str, Any]:
    """Calibrate a plan to a share of the FLOPs, where there is one, and return what it does to the answers."""
    schedule = None
    if flops is not None:
        try:
            plan = calibrator.search(plan, Target("flops", flops)).plan
        except OutOfReach as error:
            return {"out_of_reach": str(error)}
        schedule = plan.stages["vision"].schedule
    pruned = outputs(parts, batches, plan)
    return {
        "schedule": None if schedule is None else asdict(schedule),
        "flops_ratio": calibrator.measure(plan, timed=False).flops,
        "agreement": (pruned.argmax(1) == unpruned.argmax(1)).double().mean().item(),
        "logit_rms": (pruned - unpruned).square().mean().sqrt().item(),
    }


if __name__ == "__main__":
    run_script(main, __doc__)
