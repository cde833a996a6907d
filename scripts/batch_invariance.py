"""Does an image's answer depend on its batch? Answers of the test images at several batch sizes, pruned as configured.

python scripts/batch_invariance.py 1 7 32 pruning=vit_s14/saint_speedup2 pruning.stages.vision.method.vote=sample
"""

from __future__ import annotations

import sys

import torch
from rich.progress import track

from saintprune.config import compose_run
from saintprune.wiring import build


def main() -> None:
    """Print, for each batch size, how many answers differ from those of the first."""
    sizes = [int(argument) for argument in sys.argv[1:] if argument.isdigit()]
    overrides = [argument for argument in sys.argv[1:] if not argument.isdigit()]
    if not sizes:
        raise SystemExit(__doc__)
    parts = build(*compose_run(overrides))
    answers = {}
    for size in sizes:
        parts.data.batch_size = size
        answers[size] = torch.cat(
            [answer(parts, images) for images, _ in track(parts.data.test_dataloader(), f"batches of {size}")]
        )
    for size in sizes:
        differ = (answers[size] != answers[sizes[0]]).sum().item()
        print(f"batches of {size}: {differ} of {len(answers[size])} answers differ from batches of {sizes[0]}")


@torch.inference_mode()
def answer(parts, images: torch.Tensor) -> torch.Tensor:
    """Return the pruned network's answers [B]."""
    with parts.adapter.pruned(parts.plan):
        return parts.adapter.net(images.to(parts.device, parts.hardware.dtype)).argmax(-1).cpu()


if __name__ == "__main__":
    main()
