"""Seconds, memory and FLOPs of answering prompts with images, pruned beside unpruned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from saintprune.adapters.kv_cache import cache_bytes
from saintprune.adapters.vlm import VLM
from saintprune.evaluation.benchmark import replayed, selector_seconds
from saintprune.evaluation.timing import BenchmarkSettings, clock, time_in_turn
from saintprune.evaluation.vlm_passes import (
    Inputs,
    TokenCounts,
    answer,
    go_on,
    longer,
    mask_of,
    pruned_counts,
    read_prompt,
    see_images,
    unpruned_counts,
)
from saintprune.evaluation.vlm_timing import VLMArm, VLMTiming, ratios
from saintprune.metrics.flops import flops_of
from saintprune.metrics.intervals import median
from saintprune.metrics.memory import peak_memory
from saintprune.plan import Plan


class VLMBenchmark:
    """Times one model unpruned, pruned, and pruned with selection for free, in turn.

    Answers are decoded greedily and all have the same number of tokens, whatever their words: an end token does not
    end them.

    Args:
        adapter: of the model, which is on the device of the batches and in their precision.
        plan: what to prune.
        batches: each the inputs of B prompts.
        settings: how long, and how many tokens.
    """

    def __init__(self, adapter: VLM, plan: Plan, batches: Sequence[Inputs], settings: BenchmarkSettings) -> None:
        self.adapter, self.batches = adapter, batches
        self.device, self.batch_size = batches[0]["input_ids"].device, len(batches[0]["input_ids"])
        self.settings = replace(settings, batches=len(batches))
        self.plans = [{"baseline": None, "pruned": plan, "ideal": self._replay(plan, batch)} for batch in batches]

    @torch.inference_mode()
    def run(self, advance: Callable[[float], None] = lambda share: None) -> VLMTiming:
        """Measure; `advance` is told the share of the work that is done, 0..1."""
        arms = {name: partial(self._seconds, name) for name in ("baseline", "pruned", "ideal")}
        times = time_in_turn(arms, self.settings, lambda share: advance(0.7 * share))
        read = partial(read_prompt, self.adapter.net)
        selector = selector_seconds(self.adapter, self.plans[0]["pruned"] or Plan(), self.batches, read)
        advance(0.8)
        baseline = self._arm("baseline", times["baseline"])
        advance(0.9)
        pruned = self._arm("pruned", times["pruned"])
        advance(1.0)
        return VLMTiming(
            baseline=baseline,
            pruned=pruned,
            **ratios(times["baseline"][:, :3], times["pruned"][:, :3]),
            efficiency=median(times["ideal"][:, 0] / times["pruned"][:, 0]).item(),
            selector_seconds=selector,
            selector_overhead=selector / pruned.ttft_seconds,
            selector_share_of_baseline=selector / baseline.ttft_seconds,
            new_tokens=self.settings.new_tokens,
            prompt_tokens=baseline.tokens_per_layer[0],
            batch_size=self.batch_size,
        )

    def _seconds(self, arm: str, batch: int) -> tuple[float, float, float, float]:
        """Return the seconds to the first token, of a further token (median), of the answer, and of the tower."""
        inputs, net = self.batches[batch], self.adapter.net
        with self._context(arm, batch) as run:
            marks = [clock(self.device)]
            marks += [clock(self.device) for _ in answer(net, inputs, self.settings.new_tokens)]
            with nullcontext() if run is None else run.reading(inputs):
                see_images(net, inputs)
            tower = clock(self.device) - marks[-1]
        steps = torch.tensor(marks[1:], dtype=torch.float64).diff()
        return marks[1] - marks[0], median(steps).item(), marks[-1] - marks[0], tower

    def _arm(self, name: str, seconds: Tensor) -> VLMArm:
        """Sum up one arm: medians of its passes, FLOPs, tokens and cache over the batches, memory of one answer."""
        costs, counts, length = [], [], self.settings.new_tokens
        for batch, inputs in enumerate(self.batches):
            with self._context(name, batch):
                costs.append(self._costs(inputs))
            counts.append(self._counts(name, batch))
        with self._context(name, 0):
            memory = peak_memory(lambda: list(answer(self.adapter.net, self.batches[0], length)), self.device)
        prefill, decode, cache = torch.tensor(costs, dtype=torch.float64).mean(0).tolist()
        first, step, whole, tower = median(seconds.T).tolist()
        tokens = [_mean([count.layers for count in counts]), _mean([count.visual for count in counts])]
        blocks = [count.tower for count in counts if count.tower is not None]
        return VLMArm(
            throughput=self.batch_size / whole,
            ttft_seconds=first,
            tower_seconds=tower,
            ms_per_token=1e3 * step,
            answer_seconds=whole,
            gflops=prefill + (length - 1) * decode,
            gflops_prefill=prefill,
            gflops_decode_per_token=decode,
            kv_cache_bytes=cache,
            peak_memory_mib=memory,
            tokens_per_layer=tokens[0],
            visual_tokens_per_layer=tokens[1],
            tower_tokens_per_block=_mean(blocks) if blocks else None,
        )

    def _costs(self, inputs: Inputs) -> tuple[float, float, float]:
        """Return, per sample: GFLOPs until the first token, of the second, and bytes of the cache between them."""
        prefill, output = flops_of(lambda: read_prompt(self.adapter.net, inputs))
        held, token = cache_bytes(output.past_key_values), output.logits[:, -1:].argmax(-1)
        mask = longer(mask_of(inputs), 1)
        decode, _ = flops_of(lambda: go_on(self.adapter.net, token, mask, output.past_key_values))
        return prefill / 1e9 / len(token), decode / 1e9 / len(token), held / len(token)

    def _counts(self, name: str, batch: int) -> TokenCounts:
        # the pruned run knows of the tower also what entered it
        with self.adapter.pruned(self.plans[batch]["ideal"] or Plan()) as run:
            read_prompt(self.adapter.net, self.batches[batch])
        return pruned_counts(run) if name == "pruned" else unpruned_counts(self.adapter, self.batches[batch], run)

    @torch.inference_mode()
    def _replay(self, plan: Plan, inputs: Inputs) -> Plan:
        """Return the plan that repeats, on these prompts, what the given plan selects, at no cost."""
        with self.adapter.pruned(plan, recorded=True) as run:
            read_prompt(self.adapter.net, inputs)
        return replayed(plan, run.events)

    def _context(self, arm: str, batch: int) -> AbstractContextManager[Any]:
        """Return the context of an arm; the baseline is the model as nobody has touched it."""
        plan = self.plans[batch][arm]
        return nullcontext() if plan is None else self.adapter.pruned(plan)


def _mean(rows: Sequence[list[float]]) -> list[float]:
    return torch.tensor(rows, dtype=torch.float64).mean(0).tolist()
