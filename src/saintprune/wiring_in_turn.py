"""Time the prunings of a comparison in turn: their speeds are then of the same minutes of the same machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import torch
from omegaconf import DictConfig, OmegaConf

from saintprune import wiring, wiring_analysis
from saintprune.calibration.search import Knob
from saintprune.config import Config
from saintprune.errors import SaintpruneError
from saintprune.evaluation.benchmark import selector_seconds, timed_pass
from saintprune.evaluation.timing import summed_up, time_in_turn
from saintprune.metrics.intervals import bootstrap, harmonic_mean, median
from saintprune.models import corrections
from saintprune.parts import Parts, progress, quiet
from saintprune.plan import Plan
from saintprune.reporting.configs import check_comparable
from saintprune.reporting.records import RunRecord, source_commit

UNPRUNED = ""
ONLY_IMAGES = "only prunings of networks that look at images alone can be timed in turn"


def time_folder(folder: Path, rounds: int) -> dict[str, float]:
    """Time all prunings of a folder's records in turn with the unpruned network, and write that into the records.

    Each round passes once through the untouched network and once through each pruning, in an order that turns. A slow
    minute of the machine, or a machine of another day, then hits all of them alike. Each round takes the next batch of
    the test split, as far as there are any, for prunings whose work depends on the images.

    Args:
        folder: of scripts/compare.py, of a network that looks at images. Cells out of reach have nothing to time.
        rounds: at least 2.

    Returns:
        Speed-up by name of the cell.

    Raises:
        SaintpruneError: there are no such records, or they are not of one comparison.
    """
    quiet()
    if rounds < 2:
        raise SaintpruneError(f"--in-turn is {rounds}, but an interval needs at least 2 rounds")
    found = {path: RunRecord.read(path) for path in sorted(folder.glob("*.json"))}
    found = {path: record for path, record in found.items() if record.out_of_reach is None}
    if not found:
        raise SaintpruneError(f"{folder} holds no measured record: run scripts/compare.py {folder} PRUNING… first")
    parts, plans = _of_one_comparison(found)
    batches = wiring.timed_batches(parts, rounds)

    def arm(plan: Plan | None) -> Callable[[int], float]:
        return lambda number: timed_pass(parts.adapter, plan, batches[number])

    arms = {UNPRUNED: arm(None)} | {path.stem: arm(plan) for path, plan in plans.items()}
    settings = replace(parts.settings, pairs=rounds, max_seconds=float("inf"), batches=len(batches))
    with progress(f"timing {len(plans)} prunings in turn") as advance, torch.inference_mode():
        times = time_in_turn(arms, settings, advance)
    about = {
        "beside": len(plans) - 1,
        "rounds": rounds,
        "device": parts.hardware.device_name(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": source_commit(),
    }
    timed = {}
    for path, record in found.items():
        spent, ratios = median(times[path.stem]).item(), times[UNPRUNED] / times[path.stem]
        figures = {
            "speedup": harmonic_mean(ratios).item(),  # for all what `summed_up` is for plans that defer
            "speedup_ci95": bootstrap(ratios, harmonic_mean),
            "throughput": summed_up(plans[path])(len(batches[0]) / times[path.stem]).item(),
            "selector_overhead": selector_seconds(parts.adapter, plans[path], batches, parts.adapter.net) / spent,
        }
        timed[path] = replace(record, in_turn=figures | about)
    for path, record in timed.items():  # all or none of them
        record.write(path)
    return {path.stem: record.in_turn["speedup"] for path, record in timed.items()}


def _of_one_comparison(found: Mapping[Path, RunRecord]) -> tuple[Parts, dict[Path, Plan]]:
    """Return the objects that the records share, built once, and the plan of each."""
    check_comparable({str(path): record for path, record in found.items()})
    parts, plans = None, {}
    for path, record in found.items():
        if "ttft_seconds" in record.baseline:
            raise SaintpruneError(f"{path}: {ONLY_IMAGES}")
        cfg, names = _config_of(record), {"dataset": record.dataset, "pruning": record.pruning}
        if parts is None:
            parts = wiring.build(cfg, names)
            if wiring_analysis.is_language(parts.model):
                raise SaintpruneError(f"{path}: {ONLY_IMAGES}")
        plans[path] = _plan_of(path, record, wiring.repruned(parts, cfg, names).plan)
    assert parts is not None
    return parts, plans


def _config_of(record: RunRecord) -> DictConfig:
    """Return the config that a record was made with, as composing it gives it now: with keys that came later, and
    without what went.
    """
    config = dict(record.config)
    if "hardware" in config:
        config["hardware"] = {key: value for key, value in config["hardware"].items() if key != "bandwidth"}
    return cast(DictConfig, OmegaConf.merge(OmegaConf.structured(Config), config))


def _plan_of(path: Path, record: RunRecord, plan: Plan) -> Plan:
    """Return what a record measured: the plan of its config, its knob where calibration had turned it, corrected by
    what lies beside the record where it was.
    """
    found = record.calibration or {}
    plan = Knob.of(plan).at(found["value"]) if "value" in found else plan
    return corrections.corrected(plan, path.with_suffix(corrections.SUFFIX)) if "correction" in found else plan
