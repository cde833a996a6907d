"""The objects of one run, and how it speaks while it lasts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from saintprune.calibration.correct import Corrector
from saintprune.calibration.search import Calibrator
from saintprune.evaluation.timing import BenchmarkSettings
from saintprune.hardware import HardwareProfile
from saintprune.plan import Plan

console = Console()


@dataclass
class Parts:
    """The objects of one run.

    Attributes:
        cfg: the composed config.
        names: how the dataset is called in messages, and the pruning in the record.
        hardware: the profile.
        device: of it.
        data: a data module, set up.
        model: a `LoadedModel` or a `LoadedVLM`.
        adapter: a `ViTAdapter` or a `VLM` around its network.
        plan: what to prune.
        settings: of the benchmark.
        unpruned: what the untouched model answered to the test split, by number of the batch; filled as it is
            asked. Runs that differ in their pruning alone share it.
        calibrators: by images, pairs of passes and head; what one found of the untouched network serves every pruning.
        correctors: by images of calibration, which they pass over, and images; what one saw serves every pruning.
    """

    cfg: Any
    names: dict[str, str]
    hardware: HardwareProfile
    device: torch.device
    data: Any
    model: Any
    adapter: Any
    plan: Plan
    settings: BenchmarkSettings
    unpruned: dict[int, Any] = field(default_factory=dict)
    calibrators: dict[tuple[int, int, str | None], Calibrator] = field(default_factory=dict)
    correctors: dict[tuple[int, int], Corrector] = field(default_factory=dict)


def quiet() -> None:
    """Let the libraries that announce what they do at every step speak of errors only."""
    for library in ("lightning.pytorch", "lightning.fabric", "httpx"):
        logging.getLogger(library).setLevel(logging.ERROR)


@contextmanager
def progress(what: str) -> Iterator[Callable[[float], None]]:
    """Show a progress bar; yield the function that moves it to a share of the work."""
    with Progress(console=console, transient=True) as bar:
        job = bar.add_task(what, total=1.0)
        yield lambda share: bar.update(job, completed=share)
