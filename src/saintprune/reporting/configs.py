"""What the configs of records say of their prunings, and whether records are of one comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from saintprune.errors import SaintpruneError
from saintprune.reporting.records import RunRecord

NO_FIGURE = ("name", "num_workers")  # of a hardware profile
HARDWARE = ("accelerator", "precision", "batch_size", "threads", "compile")  # what of it all figures depend on
PLACES = ("checkpoint", "path")  # of which the last part counts
NO_DATA = ("root", "train_path")  # where the package's own data lie, and what only some cells need


def stages_of(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the stages of a config's pruning, and of what follows where it defers, each after its place in the pruning:
    "stages.vision", "second.stages.vision", …
    """
    plan, place = config.get("pruning"), ""
    while isinstance(plan, Mapping):
        for name, stage in (plan.get("stages") or {}).items():
            if isinstance(stage, Mapping):
                yield f"{place}stages.{name}", stage
        plan, place = plan.get("second"), f"{place}second."


def seeds_of(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the seeds of a config's methods by the place of their stage, of those that have one."""
    methods = {place: stage.get("method") or {} for place, stage in stages_of(config)}
    return {place: method["seed"] for place, method in methods.items() if "seed" in method}


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a config as one level: "model.net.img_size" -> 224, …"""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return in one line where a config differs from an earlier one; empty where it does not.

    What one of them does not mention counts as null: versions differ in the keys that they know.
    """
    one, other = flat(before), flat(after)
    keys = [key for key in one | other if one.get(key) != other.get(key)]
    return ", ".join(f"{key} {_said(one.get(key))} -> {_said(other.get(key))}" for key in keys)


def check_comparable(records: Mapping[str, RunRecord]) -> None:
    """Check that records are of one comparison: that they share what would change all of their figures.

    Args:
        records: by the names of their files.

    Raises:
        SaintpruneError: two of them are of another model, dataset, hardware, correction or number of samples.
    """
    seen: dict[str, tuple[str, Any]] = {}
    for name, record in records.items():
        found = shared(record.config, record.hardware)
        if record.num_samples:  # of what is out of reach, and where only time was measured, there are none
            found["num_samples"] = record.num_samples
        _check_same(name, found, seen)


def check_joins(
    folder: Mapping[str, RunRecord], to_come: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> None:
    """Check that cells to come are of the comparison that a folder holds.

    Args:
        folder: its records, by the names of their files; those that will be replaced do not count.
        to_come: config and fields of the profile of each cell, plain data, by the name of its file.

    Raises:
        SaintpruneError: one is of another model, dataset, hardware or correction.
    """
    seen: dict[str, tuple[str, Any]] = {}
    there = {name: (record.config, record.hardware) for name, record in folder.items() if name not in to_come}
    for name, (config, hardware) in (there | dict(to_come)).items():
        _check_same(name, shared(config, hardware), seen)


def _check_same(name: str, found: Mapping[str, Any], seen: dict[str, tuple[str, Any]]) -> None:
    """Compare what a record shares with what those before it do, `seen`, to which it is added."""
    for key, value in found.items():
        other, known = seen.setdefault(key, (name, value))
        if value != known:
            raise SaintpruneError(
                f"{other} and {name} are not of one comparison: {key} is {_said(known)} in one and {_said(value)}"
                " in the other; keep each comparison in a folder of its own"
            )


def shared(config: Mapping[str, Any], hardware: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the cells of one comparison have in common, as far as a config and the profile's fields tell it."""
    parts = {key: config.get(key) or {} for key in ("model", "dataset")}
    found = flat(parts | {"hardware": {key: hardware[key] for key in HARDWARE if key in hardware}})
    for key, value in list(found.items()):
        last = key.rpartition(".")[2]
        if last in NO_DATA:
            del found[key]
        elif last in PLACES and isinstance(value, str):
            found[key] = Path(value).name
    return found | {"calibration.correct": (config.get("calibration") or {}).get("correct")}


def _said(value: Any) -> str:
    return "null" if value is None else str(value)
