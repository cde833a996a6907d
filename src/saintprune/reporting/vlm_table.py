"""The table of a run of a vision-language model: unpruned and pruned side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from saintprune.reporting.cells import accuracy_change, mean_tokens, number, percent, ratio, speedup
from saintprune.reporting.records import RunRecord

Row = tuple[str, str, str, str]


def vlm_rows(record: RunRecord) -> Iterator[Row]:
    """Yield the rows: what is measured, unpruned, pruned, change."""
    before, after, delta = record.baseline, record.pruned, record.delta
    length = (record.benchmark or {}).get("new_tokens", 0)

    def row(label: str, key: str, shown: Callable[[Any], str], change: str = "") -> Row:
        return label, shown(before[key]), shown(after[key]), change

    if before["accuracy"] is not None:
        yield row("accuracy", "accuracy", percent, accuracy_change(delta))
        yield from _by_kind(record, "accuracy_by_kind")
        yield "same answer as unpruned", "", percent(record.agreement), ""
    if before["likelihood_accuracy"] is not None:
        change = accuracy_change(delta, key="likelihood_accuracy")
        yield row("accuracy by likelihood", "likelihood_accuracy", percent, change)
        yield from _by_kind(record, "likelihood_accuracy_by_kind")
        yield "same choice as unpruned", "", percent(record.likelihood_agreement), ""
    if before["throughput"] is not None:
        yield row(f"answers of {length} tokens per second", "throughput", _small, speedup(delta))
        yield row("time to first token, ms", "ttft_seconds", _milli, speedup(delta, "ttft_speedup"))
        yield row("  tower and projector, ms", "tower_seconds", _milli)
        yield row("time per further token, ms", "ms_per_token", number, speedup(delta, "decode_speedup"))
        yield row("GFLOPs per answer", "gflops", number, ratio(delta))
        yield row("  to the first token", "gflops_prefill", number, ratio(delta, "gflops_prefill_ratio"))
        yield row("KV cache, MiB per prompt", "kv_cache_bytes", _mebi, ratio(delta, "kv_cache_ratio"))
    yield row("image tokens per layer, mean", "visual_tokens_per_layer", mean_tokens)
    yield row("all tokens per layer, mean", "tokens_per_layer", mean_tokens)
    if after["tower_tokens_per_block"] is not None:
        yield row("tower tokens per block, mean", "tower_tokens_per_block", mean_tokens)
    if before["peak_memory_mib"] is not None:
        yield row("peak memory, MiB", "peak_memory_mib", number)
    yield "selecting, share of first token", "", percent(record.selector_overhead, 2), ""


def _by_kind(record: RunRecord, key: str) -> Iterator[Row]:
    """Yield a row per kind of question, where there are several."""
    before, after = record.baseline[key], record.pruned[key]
    for kind in before if len(before) > 1 else ():
        change = f"{100 * (after[kind] - before[kind]):+.1f}"
        yield f"  {kind} ({(record.samples_by_kind or {})[kind]})", percent(before[kind]), percent(after[kind]), change


def _milli(seconds: float | None) -> str:
    return number(None if seconds is None else 1e3 * seconds)


def _mebi(count: float | None) -> str:
    return number(None if count is None else count / 2**20)


def _small(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
