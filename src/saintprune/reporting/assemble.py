"""From scores and timings to the parts of a record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def figures(
    scores: dict[str, Any] | None,
    timing: dict[str, Any] | None,
    share_of_peak: Callable[[float], float | None] = lambda flops_per_second: None,
) -> dict[str, Any]:
    """Return the record's figures; what was not measured is None.

    Args:
        scores: the fields of `evaluation.classification.Scores`.
        timing: the fields of `evaluation.benchmark.BenchmarkResult`.
        share_of_peak: maps FLOP/s to a share of what the hardware could do.
    """
    scores, timing = scores or {}, timing or {}
    arms = {name: _arm(name, scores, timing, share_of_peak) for name in ("baseline", "pruned")}
    costs = [arm["gflops"] for arm in arms.values()]
    accuracies = [arm["accuracy"] for arm in arms.values()]
    return {
        "num_samples": scores.get("num_samples", 0),
        **arms,
        "delta": {
            "accuracy": None if None in accuracies else accuracies[1] - accuracies[0],
            "accuracy_ci95": scores.get("accuracy_change_ci95"),
            "speedup": timing.get("speedup"),
            "speedup_ci95": timing.get("speedup_ci95"),
            "gflops_ratio": None if None in costs else costs[1] / costs[0],
        },
        "selector_overhead": timing.get("selector_overhead"),
        "agreement": scores.get("agreement"),
        "output_cosine": scores.get("output_cosine"),
        "benchmark": {key: value for key, value in timing.items() if key not in ("baseline", "pruned")} or None,
    }


def _arm(
    name: str, scores: dict[str, Any], timing: dict[str, Any], share_of_peak: Callable[[float], float | None]
) -> dict[str, Any]:
    """Return the figures of the unpruned or the pruned network."""
    timed = timing.get(name, {})
    return {
        "accuracy": scores.get(f"{name}_accuracy"),
        "throughput": timed.get("throughput"),
        "gflops": timed.get("gflops"),
        "tokens_per_layer": scores.get(f"{name}_tokens") or timed.get("tokens_per_layer"),
        "peak_memory_mib": timed.get("peak_memory_mib"),
        "share_of_peak": share_of_peak(timed["throughput"] * timed["gflops"] * 1e9) if timed else None,
    }
