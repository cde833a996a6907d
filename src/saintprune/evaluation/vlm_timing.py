"""What timing a vision-language model tells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from saintprune.metrics.intervals import bootstrap, median


@dataclass(frozen=True)
class VLMArm:
    """One way of running the model, on prompts with their images.

    Attributes:
        throughput: answers of `new_tokens` tokens per second.
        ttft_seconds: of a batch, until the logits of the first token: tower, projector, and reading the prompt.
        tower_seconds: of a batch, the tower's and the projector's part of that, measured apart.
        ms_per_token: milliseconds for each further token of a batch's answers.
        answer_seconds: of a batch, until the last token.
        gflops: 1e9 FLOPs per answer.
        gflops_prefill: the part of that until the first token.
        gflops_decode_per_token: for each further token.
        kv_cache_bytes: keys and values after the prompt, per sample, padding included.
        peak_memory_mib: during an answer, beyond what was held before; None where the whole model did not run.
        tokens_per_layer: see `TokenCounts`.
        visual_tokens_per_layer: see `TokenCounts`.
        tower_tokens_per_block: see `TokenCounts`.
    """

    throughput: float
    ttft_seconds: float
    tower_seconds: float
    ms_per_token: float
    answer_seconds: float
    gflops: float
    gflops_prefill: float
    gflops_decode_per_token: float
    kv_cache_bytes: float
    peak_memory_mib: float | None
    tokens_per_layer: list[float]
    visual_tokens_per_layer: list[float]
    tower_tokens_per_block: list[float] | None


@dataclass(frozen=True)
class VLMTiming:
    """What was measured; ratios are medians over pairs of unpruned seconds / pruned seconds.

    Attributes:
        baseline: the untouched model.
        pruned: the model inside `pruned(plan)`.
        speedup: of a whole answer of `new_tokens` tokens, which is what a user waits for.
        speedup_ci95: bootstrap interval of that median.
        ttft_speedup: of the time to the first token.
        ttft_speedup_ci95: its interval.
        decode_speedup: of the time per further token.
        decode_speedup_ci95: its interval.
        faster_for_tokens: lengths of answers, [shortest, longest], for which pruning saves time; a longest of None
            means any, and None in place of the list means no length.
        efficiency: median of ideal / pruned time to the first token, where ideal repeats the recorded selections.
        selector_seconds: preparing states and selecting, summed over layers, median over passes, measured apart.
        selector_overhead: that as a share of the pruned time to the first token.
        selector_share_of_baseline: that as a share of the unpruned time to the first token.
        new_tokens: of an answer.
        prompt_tokens: mean real tokens of a prompt, image included.
        pairs: that were timed.
        batch_size: prompts per pass.
        extrapolated: None, or from what the figures of the whole model were predicted.
    """

    baseline: VLMArm
    pruned: VLMArm
    speedup: float
    speedup_ci95: tuple[float, float]
    ttft_speedup: float
    ttft_speedup_ci95: tuple[float, float]
    decode_speedup: float
    decode_speedup_ci95: tuple[float, float]
    faster_for_tokens: tuple[int, int | None] | None
    efficiency: float
    selector_seconds: float
    selector_overhead: float
    selector_share_of_baseline: float
    new_tokens: int
    prompt_tokens: float
    pairs: int
    batch_size: int
    extrapolated: dict[str, Any] | None = None


def ratios(before: Tensor, after: Tensor) -> dict[str, Any]:
    """Return the fields of `VLMTiming` that set the two arms side by side.

    Args:
        before: [rounds, 3], the unpruned seconds to the first token, of a further token, and of an answer.
        after: the same, pruned.
    """
    found: dict[str, Any] = {}
    for name, values in zip(("ttft_speedup", "decode_speedup", "speedup"), (before / after).T, strict=True):
        found |= {name: median(values).item(), f"{name}_ci95": bootstrap(values, median)}
    saved = median(before.T) - median(after.T)
    return found | {"faster_for_tokens": faster_for_tokens(saved[0].item(), saved[1].item()), "pairs": len(before)}


def faster_for_tokens(first_saved: float, step_saved: float) -> tuple[int, int | None] | None:
    """Return for which lengths of answers time is saved: (shortest, longest), longest None for any; None for none.

    Args:
        first_saved: seconds saved until the first token; negative if lost.
        step_saved: seconds saved with each further token.
    """
    if first_saved > 0:
        return 1, None if step_saved >= 0 else math.ceil(first_saved / -step_saved)
    return (math.floor(-first_saved / step_saved) + 2, None) if step_saved > 0 else None
