"""What the configs of records say of their prunings, and whether records are of one comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from saintprune.errors import SaintpruneError
from saintprune.reporting.records import RunRecord

NO_FIGURE = ("name", "num_workers")  # of a hardware profile
IGNORED = (*NO_FIGURE, "peak_tflops", "peak_precision")  # of it where cells are compared


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
        for key, value in _shared(record).items():
            other, known = seen.setdefault(key, (name, value))
            if value != known:
                raise SaintpruneError(
                    f"{other} and {name} are not of one comparison: {key} is {_said(known)} in one and {_said(value)}"
                    " in the other; keep each comparison in a folder of its own"
                )


def _shared(record: RunRecord) -> dict[str, Any]:
    """Return what the cells of one comparison have in common, as far as a record tells it."""
    config = record.config
    hardware = {key: value for key, value in (config.get("hardware") or {}).items() if key not in IGNORED}
    parts = {"model": config.get("model") or {}, "dataset": config.get("dataset") or {}, "hardware": hardware}
    found = flat(parts)
    if record.num_samples:  # of what is out of reach, and where only time was measured, there are none
        found["num_samples"] = record.num_samples
    return found | {"calibration.correct": (config.get("calibration") or {}).get("correct")}


def _said(value: Any) -> str:
    return "null" if value is None else str(value)
