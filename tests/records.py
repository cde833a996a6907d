"""Records that tests share."""

from saintprune.reporting.assemble import figures
from saintprune.reporting.records import RunRecord

SCORES = {
    "num_samples": 656, "baseline_accuracy": 0.875, "pruned_accuracy": 0.85, "accuracy_change_ci95": (-0.04, -0.01),
    "agreement": 0.9375, "output_cosine": 0.97, "baseline_tokens": [257.0, 257.0], "pruned_tokens": [130.5, 66.0],
}  # fmt: skip
TIMING = {
    "baseline": {"throughput": 10.0, "gflops": 12.5, "peak_memory_mib": 100.0, "tokens_per_layer": [257.0, 257.0]},
    "pruned": {"throughput": 21.0, "gflops": 5.0, "peak_memory_mib": None, "tokens_per_layer": [131.0, 65.0]},
    "speedup": 2.1, "speedup_ci95": (2.0, 2.2), "efficiency": 0.98, "selector_overhead": 0.012, "pairs": 30,
}  # fmt: skip


def record(scores=SCORES, timing=TIMING, **more):
    """Return the record of an evaluation; other fields by keyword."""
    named = {"task": "evaluate", "model": "m", "dataset": "d", "pruning": "p"}
    return RunRecord(**{**named, **figures(scores, timing), **more})
