"""One table for people: unpruned and pruned side by side."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from saintprune.reporting.records import RunRecord


def run_table(record: RunRecord) -> Table:
    """Return the table of one run."""
    table = Table(title=f"{record.model} on {record.dataset}, pruning={record.pruning}", title_justify="left")
    for name in ("", "unpruned", "pruned", "change"):
        table.add_column(name, justify="left" if not name else "right")
    baseline, pruned, delta = record.baseline, record.pruned, record.delta
    table.add_row("accuracy", percent(baseline["accuracy"]), percent(pruned["accuracy"]), _accuracy_change(delta))
    table.add_row("same answer as unpruned", "", percent(record.agreement), "")
    table.add_row("images per second", number(baseline["throughput"]), number(pruned["throughput"]), _speedup(delta))
    table.add_row("GFLOPs per image", number(baseline["gflops"]), number(pruned["gflops"]), _ratio(delta))
    table.add_row("tokens per layer, mean", *(_mean_tokens(arm["tokens_per_layer"]) for arm in (baseline, pruned)), "")
    table.add_row("peak memory, MiB", number(baseline["peak_memory_mib"]), number(pruned["peak_memory_mib"]), "")
    table.add_row("selecting, share of the pass", "", percent(record.selector_overhead, 2), "")
    return table


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
    shared = {(record.model, record.dataset) for record in records}
    title = " on ".join(next(iter(shared))) if len(shared) == 1 else "several models or datasets"
    table = Table(title=f"{len(records)} runs, {title}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("pruning", "accuracy", "change", "agreement", "GFLOPs", "speed-up (95 %)"):
        table.add_column(name, justify="left" if name == "pruning" else "right")
    for record in records:
        name = record.pruning.removeprefix(f"{record.model}/")
        name = name if len(shared) == 1 else f"{record.model} {record.dataset} {name}"
        table.add_row(
            name,
            percent(record.pruned["accuracy"]),
            _accuracy_change(record.delta, interval=False),
            percent(record.agreement),
            _ratio(record.delta),
            _speedup(record.delta),
        )
    return table


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as per cent, or "-"."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def number(value: float | None) -> str:
    """Return a number with three significant digits or so, or "-"."""
    return "-" if value is None else f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def _accuracy_change(delta: dict, interval: bool = True) -> str:
    if delta.get("accuracy") is None:
        return "-"
    change = f"{100 * delta['accuracy']:+.1f}"
    if not interval or delta.get("accuracy_ci95") is None:
        return change
    low, high = delta["accuracy_ci95"]
    return f"{change} ({100 * low:+.1f} to {100 * high:+.1f})"


def _speedup(delta: dict) -> str:
    if delta.get("speedup") is None:
        return "-"
    low, high = delta["speedup_ci95"]
    return f"{delta['speedup']:.2f}x ({low:.2f}–{high:.2f})"


def _ratio(delta: dict) -> str:
    return "-" if delta.get("gflops_ratio") is None else f"{delta['gflops_ratio']:.2f}x"


def _mean_tokens(tokens: Sequence[float] | None) -> str:
    return "-" if not tokens else f"{sum(tokens) / len(tokens):.1f}"
