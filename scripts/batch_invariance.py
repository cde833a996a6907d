"""Does an image's answer depend on its batch? Answers of the test images at several batch sizes, pruned as configured.

python scripts/batch_invariance.py SIZE [SIZE ...] [KEY=VALUE ...]    as for run.py
python scripts/batch_invariance.py 1 7 32 pruning=vit_s14/saint_speedup2 pruning.stages.vision.method.vote=sample
"""

from __future__ import annotations

import sys

import torch
from rich.progress import track
from torch import Tensor

from saintprune.errors import SaintpruneError
from saintprune.parts import Parts
from saintprune.study_script import open_images


def main(arguments: list[str]) -> None:
    """Print, for each batch size, how many answers differ from those of the first."""
    sizes = [int(argument) for argument in arguments if argument.isdecimal()]
    if not sizes or 0 in sizes:
        raise SystemExit(__doc__)
    parts = open_images(*(argument for argument in arguments if not argument.isdecimal()))
    answers = {size: answers_in(parts, size) for size in sizes}
    for size in sizes:
        differ = (answers[size] != answers[sizes[0]]).sum().item()
        print(f"batches of {size}: {differ} of {len(answers[size])} answers differ from batches of {sizes[0]}")


@torch.inference_mode()
def answers_in(parts: Parts, size: int) -> Tensor:
    """Return the pruned network's answers to the test images [images] in batches of a size."""
    parts.data.batch_size = size
    found = []
    for images, _ in track(parts.data.test_dataloader(), f"batches of {size}"):
        with parts.adapter.pruned(parts.plan):
            found.append(parts.adapter.net(images.to(parts.device, parts.hardware.dtype)).argmax(-1).cpu())
    return torch.cat(found)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SaintpruneError as error:
        sys.exit(f"error: {error}")
