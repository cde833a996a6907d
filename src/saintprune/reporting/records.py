"""The record of a run: one JSON file that everything else (tables, plots, dashboards) reads."""

from __future__ import annotations

import json
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from saintprune.errors import SaintpruneError
from saintprune.files import write_atomically

SCHEMA_VERSION = 1
PACKAGES = (
    "saintprune", "torch", "torchvision", "timm", "transformers", "gguf", "lightning", "hydra-core",
    "numpy", "pillow",
)  # fmt: skip


@dataclass(frozen=True)
class RunRecord:
    """What a run was and what it found. Absent figures are None, never made up.

    `baseline` and `pruned` hold accuracy (0..1), throughput (images/s), gflops (per image, 2 per multiply-add),
    tokens_per_layer (mean per sample that leave each block) and peak_memory_mib; `delta` holds accuracy,
    accuracy_ci95, speedup, speedup_ci95 and gflops_ratio. Where the plan defers, `pruned` holds deferred too, the share
    of images that were answered anew, and deferred_twice, of those whose second answer was unsure as well; all other
    figures count all passes.

    Of a vision-language model, `baseline` and `pruned` hold accuracy (0..1, exact match of generated answers),
    likelihood_accuracy (the likeliest candidate is right), both also by_kind, throughput (answers/s), ttft_seconds
    (to the first token), tower_seconds (the part of tower and projector), ms_per_token (each further token),
    answer_seconds, gflops (per answer), gflops_prefill, gflops_decode_per_token, kv_cache_bytes (per sample, after the
    prompt), tokens_per_layer (that leave each decoder layer, text included), visual_tokens_per_layer,
    tower_tokens_per_block and peak_memory_mib. There `delta.speedup` is that of a whole answer of
    `benchmark.new_tokens` tokens, ttft_speedup and decode_speedup are those of its parts, and selector_overhead is a
    share of the time to the first token. `extrapolated` tells from how many layers the figures were predicted.

    `out_of_reach` says why a pruning cannot meet the target it was given; such a record holds no figures.
    `in_turn` holds speedup, speedup_ci95, throughput and selector_overhead of passes timed in turn with those of other
    prunings (`beside`, how many), in `rounds` on `device` at `created` with `commit`: these compare prunings, where all
    else was timed by itself.
    `analysis` is what task=analyze found: samples, parts (see `saintprune.analysis.stage_file`), sensitivity, seconds.
    `identity` is the hash of what determined the figures (see `saintprune.reporting.identity`); None in older records.
    """

    task: str
    model: str
    dataset: str
    pruning: str
    num_samples: int
    baseline: dict[str, Any]
    pruned: dict[str, Any]
    delta: dict[str, Any]
    selector_overhead: float | None = None
    agreement: float | None = None
    output_cosine: float | None = None
    likelihood_agreement: float | None = None
    samples_by_kind: dict[str, int] | None = None
    extrapolated: dict[str, Any] | None = None
    benchmark: dict[str, Any] | None = None
    in_turn: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    analysis: dict[str, Any] | None = None
    out_of_reach: str | None = None
    hardware: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    identity: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    commit: str | None = field(default_factory=lambda: source_commit())
    versions: dict[str, str] = field(default_factory=lambda: package_versions())

    def write(self, path: Path) -> Path:
        """Write the record as JSON, whole or not at all.

        Raises:
            SaintpruneError: it could not be written, or a figure is not a finite number.
        """
        try:
            text = json.dumps(asdict(self), indent=2, allow_nan=False)
        except ValueError as error:
            raise SaintpruneError(
                f"a figure of this run is not a finite number (agreement {self.agreement}, output cosine"
                f" {self.output_cosine}), so no record is written: prune less, or take a wider precision"
            ) from error
        write_atomically(path, text + "\n")
        return path

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """Read a record.

        Raises:
            SaintpruneError: the file is no whole record of this schema.
        """
        try:
            content = json.loads(path.read_text())
            found = content.get("schema_version")
        except (OSError, ValueError, AttributeError) as error:
            raise SaintpruneError(f"{path} is not a run record: {error}") from error
        if found != SCHEMA_VERSION:
            raise SaintpruneError(f"{path} has record schema {found}, but this version reads {SCHEMA_VERSION}")
        try:
            return cls(**content)
        except TypeError as error:  # keys that this version lacks, or that it needs
            raise SaintpruneError(f"{path} is only part of a record, or one of another version: {error}") from error

    @classmethod
    def read_if_whole(cls, path: Path) -> RunRecord | None:
        """Read a record, or return None where there is no such file or it is no record."""
        try:
            return cls.read(path) if path.is_file() else None
        except SaintpruneError:
            return None


def write_figures(path: Path, figures: dict[str, Any], indent: int = 2) -> None:
    """Write what a script found as JSON, with the commit and the versions that determined it, whole or not at all.

    Raises:
        SaintpruneError: it could not be written, or a figure is not a finite number.
    """
    content = figures | {"commit": source_commit(), "versions": package_versions()}
    try:
        text = json.dumps(content, indent=indent, allow_nan=False)
    except ValueError as error:
        raise SaintpruneError(
            f"a figure is not a finite number, so {path} is not written: prune less, or take a wider precision"
        ) from error
    write_atomically(path, text + "\n")


def source_commit() -> str | None:
    """Return the commit of the source tree, with "+changes" where it differs; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that determine results."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
