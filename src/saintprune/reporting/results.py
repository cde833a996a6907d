"""The cells of a comparison as one tidy table: a row per record, a column per figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from saintprune.errors import SaintpruneError
from saintprune.files import write_atomically
from saintprune.reporting.configs import check_comparable, seeds_of
from saintprune.reporting.records import RunRecord


@dataclass(frozen=True)
class Row:
    """One cell. Shares are 0..1; what was not measured is None.

    Attributes:
        model: of the config.
        dataset: of the config.
        method: the pruning's file in conf/pruning.
        target: what it was calibrated to; None where it was taken as it is.
        seed: of the first method that has one; None where none has.
        status: "measured" or "out of reach".
        unpruned_accuracy: of the untouched network.
        accuracy: of the pruned one.
        change: of the accuracy.
        agreement: share of samples that are answered as without pruning.
        deferred: share of images that were answered anew; None where the pruning does not defer.
        gflops_ratio: pruned over unpruned, realised on test images.
        speedup: realised, median over pairs. Where there were passes in turn with those of other prunings, it and all
            that is timed below come of them, and it is the inverse of the mean share of the unpruned seconds.
        speedup_low: of its 95 % interval.
        speedup_high: of its 95 % interval.
        beside: how many other prunings it was timed in turn with.
        selector_share: of the pruned pass; of a vision-language model of its part until the first token.
        selector_ms: milliseconds that selecting takes an image (a prompt), of all layers together.
        mean_tokens: that leave a block, over blocks and samples.
        samples: of the test set.
        record: name of the file.
        commit: of the code.
        reason: why the target is out of reach.
    """

    model: str
    dataset: str
    method: str
    target: str | None
    seed: int | None
    status: str
    unpruned_accuracy: float | None
    accuracy: float | None
    change: float | None
    agreement: float | None
    deferred: float | None
    gflops_ratio: float | None
    speedup: float | None
    speedup_low: float | None
    speedup_high: float | None
    beside: int | None
    selector_share: float | None
    selector_ms: float | None
    mean_tokens: float | None
    samples: int
    record: str
    commit: str | None
    reason: str | None


def row(record: RunRecord, name: str) -> Row:
    """Return the row of a record, whose file is called `name`."""
    delta, tokens = record.delta, record.pruned.get("tokens_per_layer")
    alone = {"throughput": record.pruned.get("throughput"), "selector_overhead": record.selector_overhead}
    timed = record.in_turn or delta | alone
    low, high = timed.get("speedup_ci95") or (None, None)
    return Row(
        model=record.model,
        dataset=record.dataset,
        method=record.pruning.split(" ")[0],
        target=target_of(record),
        seed=next(iter(seeds_of(record.config).values()), None),
        status="measured" if record.out_of_reach is None else "out of reach",
        unpruned_accuracy=record.baseline.get("accuracy"),
        accuracy=record.pruned.get("accuracy"),
        change=delta.get("accuracy"),
        agreement=record.agreement,
        deferred=record.pruned.get("deferred"),
        gflops_ratio=delta.get("gflops_ratio"),
        speedup=timed.get("speedup"),
        speedup_low=low,
        speedup_high=high,
        beside=timed.get("beside"),
        selector_share=timed.get("selector_overhead"),
        selector_ms=_selector_ms(record, timed),
        mean_tokens=sum(tokens) / len(tokens) if tokens else None,
        samples=record.num_samples,
        record=name,
        commit=record.commit,
        reason=record.out_of_reach,
    )


def target_of(record: RunRecord) -> str | None:
    """Return what a record's pruning was calibrated to in that run."""
    return (record.config.get("calibration") or {}).get("target")


def _selector_ms(record: RunRecord, timed: Mapping[str, Any]) -> float | None:
    """Return the milliseconds that selecting takes an image or a prompt."""
    if "ttft_seconds" in record.baseline:  # there the share is of the first token, but the throughput of whole answers
        found = record.benchmark or {}
        seconds, prompts = found.get("selector_seconds"), found.get("batch_size")
        return 1000 * seconds / prompts if seconds is not None and prompts else None
    share, throughput = timed.get("selector_overhead"), timed.get("throughput")
    return 1000 * share / throughput if share is not None and throughput else None


def read_rows(folder: Path) -> list[Row]:
    """Return the rows of a folder's records, by method, target and seed.

    Raises:
        SaintpruneError: it holds none, a file that is none, or records that are not of one comparison.
    """
    records = {path.name: RunRecord.read(path) for path in sorted(folder.glob("*.json"))}
    if not records:
        raise SaintpruneError(f"{folder} holds no record: run scripts/compare.py {folder} PRUNING… first")
    check_comparable(records)
    rows = [row(record, name) for name, record in records.items()]
    return sorted(rows, key=lambda one: (one.model, one.dataset, one.method, one.target or "", one.seed or 0))


def write_csv(rows: Sequence[Row], path: Path) -> Path:
    """Write the rows, at least one and all of a kind, whole or not at all; None is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(rows[0])], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(one) for one in rows)
    return write_atomically(path, text.getvalue())
