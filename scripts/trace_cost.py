"""What tracing a network costs: seconds beside those of plain forward passes over the same images, and peak memory.

    python scripts/trace_cost.py RECORD.json [KEY=VALUE ...]      as for run.py, such as model=vit_s14 hardware=cpu

Both take turns in one run; the ratio is the median over pairs, with a bootstrap interval. Memory is measured over
64 and over 1,024 images apart, in equal batches; decoding the images is part of neither figure.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import cycle, islice
from pathlib import Path

import torch

from saintprune.analysis.trace import trace
from saintprune.errors import SaintpruneError
from saintprune.metrics.intervals import bootstrap, median
from saintprune.metrics.memory import peak_memory
from saintprune.reporting.records import write_figures
from saintprune.workbench import open_run, training_images

IMAGES, PAIRS, FEW, MANY = 256, 5, 64, 1024


def main(path: Path, overrides: list[str]) -> None:
    """Measure and write the record."""
    parts = open_run("pruning=none", *overrides)
    size = parts.hardware.batch_size
    batches = training_images(parts, IMAGES)

    def plain() -> None:
        with torch.inference_mode():
            for images in batches:
                parts.adapter.net(images)

    def traced() -> None:
        trace(parts.adapter, batches)

    plain(), traced()
    seconds = torch.tensor([[timed(work) for work in turned([plain, traced], turn)] for turn in range(PAIRS)])
    seconds = torch.stack([row.flip(0) if turn % 2 else row for turn, row in enumerate(seconds)])
    ratios = (seconds[:, 1] / seconds[:, 0]).double()
    memory = {}
    for count in (FEW, MANY):
        some = list(islice(cycle(batches), count // size))  # the same images again: memory knows no difference
        memory[count] = peak_memory(lambda some=some: trace(parts.adapter, some), parts.device)
    record = {
        "what": "trace beside plain forward passes",
        "model": parts.cfg.model.name,
        "images": len(batches) * size,
        "batch_size": size,
        "pairs": PAIRS,
        "plain_seconds": seconds[:, 0].median().item(),
        "traced_seconds": seconds[:, 1].median().item(),
        "ratio": median(ratios).item(),
        "ratio_ci95": bootstrap(ratios, median),
        "peak_memory_mib": memory,
        "hardware": parts.hardware.device_name(),
        "threads": torch.get_num_threads(),
    }
    write_figures(path, record)
    print(json.dumps({name: record[name] for name in ("ratio", "ratio_ci95", "peak_memory_mib")}))


def turned(works: list, turn: int) -> list:
    """Return the works, in the other order every second time."""
    return works[::-1] if turn % 2 else works


def timed(work) -> float:
    """Return the seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        main(Path(sys.argv[1]), sys.argv[2:])
    except SaintpruneError as error:
        sys.exit(f"error: {error}")
