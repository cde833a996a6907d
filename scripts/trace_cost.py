"""What tracing a network costs: seconds beside those of plain forward passes over the same images, and peak memory.

    python scripts/trace_cost.py RECORD.json [KEY=VALUE ...]      as for run.py, such as model=vit_s14 hardware=cpu

Both take turns in one run; the ratio is the median over pairs, with a bootstrap interval. Memory is measured over
64 and over 1,024 images apart (one batch at least), in equal batches; decoding the images is part of neither figure.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from itertools import cycle, islice
from pathlib import Path

import torch
from torch import Tensor

from saintprune.analysis.trace import trace
from saintprune.evaluation.timing import BenchmarkSettings, pass_seconds, time_in_turn
from saintprune.metrics.intervals import bootstrap, median
from saintprune.metrics.memory import peak_memory
from saintprune.parts import Parts
from saintprune.study_script import open_images, run_script, write_study
from saintprune.workbench import outputs, training_images

IMAGES, PAIRS, FEW, MANY = 256, 5, 64, 1024


def main(path: Path, overrides: list[str]) -> None:
    """Measure and write the record."""
    parts = open_images("pruning=none", *overrides)
    batches = training_images(parts, IMAGES)
    seconds = timed(parts, lambda: outputs(parts, batches), lambda: trace(parts.adapter, batches))
    ratios = seconds["traced"] / seconds["plain"]
    found = {
        "pairs": PAIRS,
        "plain_seconds": seconds["plain"].median().item(),
        "traced_seconds": seconds["traced"].median().item(),
        "ratio": median(ratios).item(),
        "ratio_ci95": bootstrap(ratios, median),
        "peak_memory_mib": dict(memory(parts, batches, count) for count in (FEW, MANY)),
    }
    size = len(batches[0])
    write_study(path, parts, "trace beside plain forward passes", images=len(batches) * size, batch_size=size, **found)
    print(json.dumps({name: found[name] for name in ("ratio", "ratio_ci95", "peak_memory_mib")}))


def timed(parts: Parts, plain: Callable[[], object], traced: Callable[[], object]) -> dict[str, Tensor]:
    """Return the seconds of both works, which take turns, [pairs] each."""

    def arm(work: Callable[[], object]) -> Callable[[int], float]:
        return lambda number: pass_seconds(work, parts.device, nullcontext())

    settings = BenchmarkSettings(pairs=PAIRS, max_seconds=torch.inf)
    return time_in_turn({"plain": arm(plain), "traced": arm(traced)}, settings)


def memory(parts: Parts, batches: list[Tensor], count: int) -> tuple[int, float]:
    """Return the number of images, about `count` in whole batches, and the peak of tracing them in MiB."""
    size = len(batches[0])
    some = list(islice(cycle(batches), max(1, count // size)))  # the same images again: memory knows no difference
    return len(some) * size, peak_memory(lambda: trace(parts.adapter, some), parts.device)


if __name__ == "__main__":
    run_script(main, __doc__)
