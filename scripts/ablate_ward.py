"""What each part of `pruning=ward` brings, on training images and at one share of the FLOPs.

    python scripts/ablate_ward.py RECORD.json [KEY=VALUE ...]      as for run.py, such as model=vit_s14 hardware=cpu

Each variant's schedule is calibrated to the same FLOPs. Besides the share of answers that stay, the record holds the
root mean square error of the logits, which tells variants apart that few images separate. No test image is looked at.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from saintprune.calibration.search import Calibrator, OutOfReach
from saintprune.calibration.targets import Target
from saintprune.errors import SaintpruneError
from saintprune.files import write_atomically
from saintprune.parts import Parts
from saintprune.plan import Plan, Schedule
from saintprune.reduction.tome import ToMe
from saintprune.reduction.ward import Ward
from saintprune.reporting.records import package_versions, source_commit
from saintprune.workbench import open_run

IMAGES, CALIBRATED_ON = 320, 2  # with a schedule, FLOPs are the same for every image
EVEN, DECAYING = Schedule(drop=0.9), Schedule(drop=0.9, decay=0.3)
BUDGETS = {
    0.5: {
        "ToMe, even, all blocks": Plan.vision(ToMe(), "all", schedule=EVEN),
        "ToMe, Ward's schedule": Plan.vision(ToMe(), "0.25:", schedule=DECAYING),
        "ward, even, all blocks": Plan.vision(Ward(), "all", schedule=EVEN),
        "ward": Plan.vision(Ward(), "0.25:", schedule=DECAYING),
        "ward, without attention": Plan.vision(Ward(power=0.0), "0.25:", schedule=DECAYING),
        "ward, attention in full": Plan.vision(Ward(power=1.0), "0.25:", schedule=DECAYING),
        "ward, one matching": Plan.vision(Ward(share=0.5), "0.25:", schedule=DECAYING),
        "ward, more rounds": Plan.vision(Ward(share=0.05), "0.25:", schedule=DECAYING),
        "ward, no proportional attention": Plan.vision(
            Ward(), "0.25:", schedule=DECAYING, proportional_attention=False
        ),
        "ward, decay 0.15": Plan.vision(Ward(), "0.25:", schedule=Schedule(drop=0.9, decay=0.15)),
        "ward, decay 0.6": Plan.vision(Ward(), "0.25:", schedule=Schedule(drop=0.9, decay=0.6)),
        "ward, from a sixth": Plan.vision(Ward(), "0.17:", schedule=DECAYING),
        "ward, from a third": Plan.vision(Ward(), "0.34:", schedule=DECAYING),
    },
    0.67: {
        "ToMe, even, all blocks": Plan.vision(ToMe(), "all", schedule=EVEN),
        "ward": Plan.vision(Ward(), "0.25:", schedule=DECAYING),
        "ward, from a sixth": Plan.vision(Ward(), "0.17:", schedule=DECAYING),
    },
    0.33: {
        "ToMe, even, first half": Plan.vision(ToMe(), "first_half", schedule=EVEN),
        "ward": Plan.vision(Ward(), "0.25:", schedule=DECAYING),
        "ward, from a sixth": Plan.vision(Ward(), "0.17:", schedule=DECAYING),
    },
}


def main(path: Path, overrides: list[str]) -> None:
    """Measure every variant and write the record."""
    parts = open_run("pruning=none", *overrides)
    size = parts.hardware.batch_size
    batches = [images.to(parts.device) for images, _ in islice(parts.data.train_dataloader(), IMAGES // size)]
    calibrator = Calibrator(parts.adapter, [batches[0][:CALIBRATED_ON]])
    unpruned, rows = logits(parts, batches, Plan()), []
    planned = [(flops, *variant) for flops, variants in BUDGETS.items() for variant in variants.items()]
    for flops, name, plan in track(planned, description="variants"):
        try:
            found = calibrator.search(plan, Target("flops", flops))
        except OutOfReach as error:
            rows.append({"flops": flops, "variant": name, "out_of_reach": str(error)})
            continue
        pruned = logits(parts, batches, found.plan)
        same = (pruned.argmax(1) == unpruned.argmax(1)).double().mean().item()
        error = (pruned - unpruned).square().mean().sqrt().item()
        rows.append({"flops": flops, "variant": name, "schedule": asdict(found.plan.stages["vision"].schedule),
                     "flops_ratio": found.measured.flops, "agreement": same, "logit_rms": error})  # fmt: skip
        print(f"{flops:.2f} {name:34} same answers {same:.4f}, logit error {error:.3f}", flush=True)
    record = {
        "what": "parts of pruning=ward exchanged one by one, on training images",
        "model": parts.cfg.model.name,
        "dataset": parts.names["dataset"],
        "images": len(batches) * size,
        "variants": rows,
        "commit": source_commit(),
        "packages": package_versions(),
    }
    write_atomically(path, json.dumps(record, indent=2) + "\n")


@torch.inference_mode()
def logits(parts: Parts, batches: list[Tensor], plan: Plan) -> Tensor:
    """Return [images, classes] under a plan."""
    with parts.adapter.pruned(plan):
        return torch.cat([parts.adapter.net(images) for images in batches]).float()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    try:
        main(Path(sys.argv[1]), sys.argv[2:])
    except SaintpruneError as error:
        raise SystemExit(str(error)) from error
