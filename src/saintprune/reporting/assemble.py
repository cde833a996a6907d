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
    for key in ("deferred", "deferred_twice"):
        if scores.get(key) is not None:
            arms["pruned"][key] = scores[key]
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


def vlm_figures(
    scores: dict[str, Any] | None,
    timing: dict[str, Any] | None,
    share_of_peak: Callable[[float], float | None] = lambda flops_per_second: None,
) -> dict[str, Any]:
    """Return the record's figures of a vision-language model; what was not measured is None.

    Args:
        scores: the fields of `evaluation.vqa_summary.VQAScores`.
        timing: the fields of `evaluation.vlm_timing.VLMTiming`.
        share_of_peak: maps FLOP/s to a share of what the hardware could do.
    """
    scores, timing = dict(scores or {}), dict(timing or {})
    arms = {}
    for name in ("baseline", "pruned"):
        # tokens of the scored questions, where there are any, stand in for those of the timed batches
        found = {**dict.fromkeys(_ARM), **timing.pop(name, {}), **scores.pop(name, {})}
        rate = found["throughput"]
        arms[name] = found | {"share_of_peak": share_of_peak(rate * found["gflops"] * 1e9) if rate else None}
    before, after = arms.values()
    delta = {key: timing.pop(key, None) for key in _RATIOS}
    return {
        "num_samples": scores.get("num_samples", 0),
        **arms,
        "delta": {
            "accuracy": _change(before["accuracy"], after["accuracy"]),
            "accuracy_ci95": scores.get("accuracy_change_ci95"),
            "likelihood_accuracy": _change(before["likelihood_accuracy"], after["likelihood_accuracy"]),
            "likelihood_accuracy_ci95": scores.get("likelihood_accuracy_change_ci95"),
            **delta,
            "gflops_ratio": _ratio(before["gflops"], after["gflops"]),
            "gflops_prefill_ratio": _ratio(before["gflops_prefill"], after["gflops_prefill"]),
            "kv_cache_ratio": _ratio(before["kv_cache_bytes"], after["kv_cache_bytes"]),
        },
        "selector_overhead": timing.get("selector_overhead"),
        "agreement": scores.get("agreement"),
        "likelihood_agreement": scores.get("likelihood_agreement"),
        "samples_by_kind": scores.get("samples_by_kind"),
        "extrapolated": timing.pop("extrapolated", None),
        "benchmark": timing or None,
    }


_ARM = (
    "accuracy", "accuracy_by_kind", "likelihood_accuracy", "likelihood_accuracy_by_kind", "throughput", "ttft_seconds",
    "tower_seconds", "ms_per_token", "answer_seconds", "gflops", "gflops_prefill", "gflops_decode_per_token",
    "kv_cache_bytes", "peak_memory_mib", "tokens_per_layer", "visual_tokens_per_layer", "tower_tokens_per_block",
)  # fmt: skip
_RATIOS = (
    "speedup", "speedup_ci95", "ttft_speedup", "ttft_speedup_ci95", "decode_speedup", "decode_speedup_ci95",
)  # fmt: skip


def _change(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _ratio(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after / before
