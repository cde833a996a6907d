"""One table for people: unpruned and pruned side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from saintprune.reporting.cells import accuracy_change, mean_tokens, number, percent, ratio, speedup
from saintprune.reporting.records import RunRecord
from saintprune.reporting.vlm_table import Row, vlm_rows

__all__ = ["layers_line", "number", "percent", "run_table", "sweep_names", "sweep_table"]


def run_table(record: RunRecord) -> Table:
    """Return the table of one run."""
    title = f"{record.model} on {record.dataset}, pruning={record.pruning}{_extrapolated(record)}"
    table = Table(title=title, title_justify="left")
    for name in ("", "unpruned", "pruned", "change"):
        table.add_column(name, justify="left" if not name else "right")
    for row in vlm_rows(record) if "ttft_seconds" in record.baseline else _image_rows(record):
        table.add_row(*row)
    return table


def _image_rows(record: RunRecord) -> Iterator[Row]:
    """Yield the rows of a network that sees images alone."""
    baseline, pruned, delta = record.baseline, record.pruned, record.delta
    yield "accuracy", percent(baseline["accuracy"]), percent(pruned["accuracy"]), accuracy_change(delta)
    yield "same answer as unpruned", "", percent(record.agreement), ""
    yield "images per second", number(baseline["throughput"]), number(pruned["throughput"]), speedup(delta)
    yield "GFLOPs per image", number(baseline["gflops"]), number(pruned["gflops"]), ratio(delta)
    before, after = (mean_tokens(arm["tokens_per_layer"]) for arm in (baseline, pruned))
    yield "tokens per layer, mean", before, after, ""
    if (deferred := pruned.get("deferred")) is not None:
        yield "deferred, and answered anew", "", percent(deferred), ""
        if twice := pruned.get("deferred_twice"):
            yield "deferred twice", "", percent(twice), ""
    yield "peak memory, MiB", number(baseline["peak_memory_mib"]), number(pruned["peak_memory_mib"]), ""
    yield "selecting, share of the pass", "", percent(record.selector_overhead, 2), ""


def layers_line(tokens: Sequence[float] | None) -> str:
    """Return tokens per layer as one line, runs of equal numbers folded."""
    if not tokens:
        return "-"
    parts: list[tuple[str, int]] = []
    for value in (f"{value:.0f}" for value in tokens):
        if parts and parts[-1][0] == value:
            parts[-1] = (value, parts[-1][1] + 1)
        else:
            parts.append((value, 1))
    return " ".join(value if count == 1 else f"{value}x{count}" for value, count in parts)


def sweep_table(records: Sequence[RunRecord]) -> Table:
    """Return one row per run of a sweep; what all runs share stands in the title."""
    shared = _models_and_datasets(records)
    title = " on ".join(next(iter(shared))) if len(shared) == 1 else "several models or datasets"
    table = Table(title=f"{len(records)} runs, {title}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("pruning", "accuracy", "change", "agreement", "GFLOPs", "speed-up (95 %)"):
        left = name == "pruning"  # whose ends tell runs apart: they are folded, not cut off
        table.add_column(name, justify="left" if left else "right", overflow="fold" if left else "ellipsis")
    for name, record in zip(sweep_names(records), records, strict=True):
        table.add_row(
            name + _extrapolated(record),
            percent(record.pruned["accuracy"]),
            accuracy_change(record.delta, interval=False),
            percent(record.agreement),
            ratio(record.delta),
            speedup(record.delta),
        )
    return table


def sweep_names(records: Sequence[RunRecord]) -> list[str]:
    """Return how each run of a sweep is called beside the others: its pruning, and what they do not share."""
    names = [record.pruning.removeprefix(f"{record.model}/") for record in records]
    if len(_models_and_datasets(records)) == 1:
        return names
    return [f"{record.model} {record.dataset} {name}" for record, name in zip(records, names, strict=True)]


def _models_and_datasets(records: Sequence[RunRecord]) -> set[tuple[str, str]]:
    return {(record.model, record.dataset) for record in records}


def _extrapolated(record: RunRecord) -> str:
    """Return what a table says of figures that were predicted."""
    return "" if record.extrapolated is None else f", extrapolated from {record.extrapolated['sampled_layers']} layers"
