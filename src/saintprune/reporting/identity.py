"""The identity of a run: a hash of what determines its result, by which a record is known again."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from saintprune.reporting.configs import NO_FIGURE, stages_of
from saintprune.reporting.records import package_versions

PACKAGE = Path(__file__).resolve().parents[1]
DIGITS = 16  # of the hash, hexadecimal
NO_RESULT = ("logger", "objectives", "experiment")  # parts of a config that change no figure
PLACES = ("path", "root")  # how keys end whose value is a place on the disk


def identity(config: dict[str, Any], hardware: dict[str, Any], stages: Path | None = None) -> str:
    """Return the hash of all that determines a run's figures, apart from the machine, which the record names.

    What counts: the config without workers, loggers, objectives and places to write to; the kind of device and its
    precision as they were found; the content of files that the config names (folders count by their path); the source
    and the packaged weights of this package, and the versions of the others.

    Args:
        config: of the run, resolved, as plain data.
        hardware: the fields of the profile that the run would have.
        stages: the file in which a plan would look up the stages that it names; None where it names none.
    """
    profile = {key: value for key, value in hardware.items() if key not in NO_FIGURE}
    found = {
        "config": _by_content(determinants(config)) | {"hardware": profile},
        "stages": _digest(stages) if stages is not None and stages.is_file() else None,
        "code": source_digest(),
        "versions": package_versions(),
    }
    text = json.dumps(found, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def determinants(config: dict[str, Any]) -> dict[str, Any]:
    """Return what of a config determines a record's figures."""
    found = {key: value for key, value in config.items() if key not in NO_RESULT}
    calibration, analysis = dict(found.pop("calibration")), found.pop("analysis", None)
    if found["task"] != "calibrate":  # where it is a result of the run, not a place for it
        calibration.pop("save_as", None)
    if any(calibration.get(key) is not None for key in ("target", "correct")):
        found["calibration"] = calibration
    return found | ({"analysis": analysis} if found["task"] == "analyze" else {})


def names_stages(config: dict[str, Any], names: tuple[str, ...]) -> bool:
    """Return whether a stage of the config's pruning takes its layers by one of `names`."""
    return any(stage.get("layers") in names for _, stage in stages_of(config))


@cache
def source_digest() -> str:
    """Return the hash of this package's code and weights, as they were when it was first asked for."""
    found = hashlib.sha256()
    for path in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.safetensors")]):
        found.update(f"{path.relative_to(PACKAGE).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()


def _by_content(node: Any, key: str = "") -> Any:
    """Return a node with the names of files replaced by hashes of what they hold, and places made absolute."""
    if isinstance(node, dict):
        return {name: _by_content(value, str(name)) for name, value in node.items()}
    if isinstance(node, list):
        return [_by_content(value, key) for value in node]
    if isinstance(node, str) and _is_file(node):
        return _digest(Path(node))
    return str(Path(node).resolve()) if isinstance(node, str) and key.endswith(PLACES) else node


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # too long, or no path at all
        return False


def _digest(path: Path) -> str:
    state = path.stat()
    return _digest_of(path.resolve(), state.st_size, state.st_mtime_ns)


@cache
def _digest_of(path: Path, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
