"""The root schema of a run: scalars and required groups, so that a mistyped key is an error."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


class Task(Enum):
    """What a run does."""

    evaluate = "evaluate"
    benchmark = "benchmark"
    calibrate = "calibrate"
    analyze = "analyze"


@dataclass
class CalibrationConfig:
    """How to calibrate; with a target, `evaluate` and `benchmark` calibrate first."""

    target: str | None = None
    samples: int = 64
    steps: int = 10
    pairs: int = 5
    save_as: str | None = None


@dataclass
class Config:
    """A run. Groups are instantiated by `wiring`; their YAML files bind to classes that check their own values."""

    task: Task = Task.evaluate
    model: Any = MISSING
    dataset: Any = MISSING
    pruning: Any = MISSING
    hardware: Any = MISSING
    logger: Any = MISSING
    benchmark: Any = MISSING
    analysis: Any = MISSING
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    seed: int = 0


def config_dir() -> Path:
    """Return the folder of the YAML files: in a checkout `conf/`, in an installed package `saintprune/conf/`."""
    here = Path(__file__).resolve().parent
    packaged = here / "conf"
    return packaged if packaged.is_dir() else here.parents[1] / "conf"


def register() -> None:
    """Make the schema known to Hydra as `schema`."""
    ConfigStore.instance().store(name="schema", node=Config)
