"""Predict what a model would need that is too large for the machine, from a few of its layers at their true width."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from saintprune.adapters.vlm import VLM
from saintprune.evaluation.layer_costs import Cost, Costs, handful, total
from saintprune.evaluation.layer_parts import Parts, Work
from saintprune.evaluation.layer_paths import Depths, Selection, TokenPath, check, follow
from saintprune.evaluation.timing import BenchmarkSettings, clock, time_in_turn
from saintprune.evaluation.vlm_noise import noise_prompts
from saintprune.evaluation.vlm_timing import VLMArm, VLMTiming, ratios
from saintprune.metrics.flops import flops_of
from saintprune.metrics.intervals import median
from saintprune.plan import SITES, Plan


class LayerSampling:
    """Predicts the whole model as the sum of its parts: everything around the layers, measured once, and each layer at
    the number of tokens that it sees, measured in a stack of a few layers at a handful of numbers of tokens.

    All parts take turns, so that a slow moment hits both arms. The prediction leaves out what the adapter itself does
    per layer beside selecting and gathering, and takes a cache as long as after the prompt for every further token.

    Args:
        adapter: of the model with few layers.
        plan: for the whole model; every stage needs a schedule, so that the tokens do not depend on what is seen.
        depths: of the whole model.
        settings: how long, and how many tokens of text and of the answer.
        measure: maps named works to what each costs, [rounds]; the clock by default.
    """

    def __init__(
        self,
        adapter: VLM,
        plan: Plan,
        depths: Depths,
        settings: BenchmarkSettings,
        measure: Callable[[Mapping[Any, Work], Callable[[float], None]], dict[Any, Tensor]] | None = None,
    ) -> None:
        check(adapter, plan, depths)
        self.adapter, self.plan, self.depths, self.settings = adapter, plan, depths, settings
        self.measure = measure or self._seconds
        inputs = noise_prompts(adapter.net, 1, settings.text_tokens)
        self.parts, self.text = Parts(adapter, inputs), settings.text_tokens
        entry = inputs["input_ids"].shape[1] - self.text
        self.paths = {
            "baseline": follow(adapter, Plan(), depths, entry),
            "pruned": follow(adapter, plan, depths, entry),
        }

    @torch.inference_mode()
    def run(self, advance: Callable[[float], None] = lambda share: None) -> VLMTiming:
        """Measure and predict; `advance` is told the share of the work that is done, 0..1."""
        works = self.works()
        # first, so that counting warms up what is timed
        flops = self.predict({name: torch.tensor([float(flops_of(work)[0])]) for name, work in works.items()})
        seconds = self.predict(self.measure(works, advance))
        length = self.settings.new_tokens
        arms = {name: self._arm(name, seconds[name], flops[name]) for name in self.paths}
        after = seconds["pruned"]
        selecting = median(after.selecting).item()
        return VLMTiming(
            **arms,
            **ratios(seconds["baseline"].seconds(length), after.seconds(length)),
            efficiency=median((after.first - after.selecting) / after.first).item(),
            selector_seconds=selecting,
            selector_overhead=selecting / arms["pruned"].ttft_seconds,
            selector_share_of_baseline=selecting / arms["baseline"].ttft_seconds,
            new_tokens=length,
            prompt_tokens=float(self.text + self.paths["baseline"].entry),
            batch_size=1,
            extrapolated={
                "sampled_layers": self.adapter.depth,
                "sampled_vision_layers": len(self.parts.blocks),
                "depth": self.depths.decoder,
                "vision_depth": self.depths.tower,
                "counts_measured": sorted(count for part, count in works if part == "layer"),
                "vision_counts_measured": sorted(count for part, count in works if part == "block"),
            },
        )

    def works(self) -> dict[tuple[str, int], Work]:
        """Return the parts to measure, by kind and number of tokens (or, for selections, by number)."""
        parts, both = self.parts, list(self.paths.values())
        made: dict[tuple[str, int], Work] = {
            ("frame", 0): parts.frame(pruned=False),
            ("pruned frame", 0): parts.frame(pruned=True),
            ("step frame", 0): parts.step_frame(),
            ("embedding", 0): parts.embedding(),
        }
        for kind, part, counts in (
            ("project", parts.project, [path.tower[-1] for path in both]),
            ("block", parts.block, [count for path in both for count in path.tower[:-1]]),
            ("mlp", parts.block_mlp, [count for path in both for count in path.tower]),
            ("layer", parts.layer, [self.text + n for path in both for n in path.decoder[:-1]]),
            ("step", parts.layer_step, [held for path in both for held in self._held(path)]),
        ):
            made |= {(kind, count): part(count) for count in handful(sorted(set(counts)))}
        for site in SITES:
            selections = self._selections(self.paths["pruned"], site)
            made |= {(f"select {site}", n): selections[n].prepare() for n in handful(range(len(selections)))}
        return made

    def predict(self, costs: Costs) -> dict[str, Cost]:
        """Return what each arm of the whole model needs, given what the parts need."""
        return {name: self._cost(path, costs, name == "pruned") for name, path in self.paths.items()}

    def _cost(self, path: TokenPath, costs: Costs, pruned: bool) -> Cost:
        last = path.tower[-1]
        # of a pruned block, attention sees what enters and the MLP what is left
        blocks = (
            total("block", path.tower[:-1], costs)
            - total("mlp", path.tower[:-1], costs)
            + total("mlp", path.tower[1:], costs)
        ) / len(self.parts.blocks)
        layers = total("layer", [self.text + count for count in path.decoder[:-1]], costs) / self.adapter.depth
        selecting = {site: self._selecting(path, costs, site) for site in SITES}
        # the frame has the projector at all patches
        frame = costs["pruned frame" if pruned else "frame", 0]
        frame = frame - costs["project", path.entry] + costs["project", last]
        tower = costs["embedding", 0] + blocks + costs["project", last] + selecting["vision"] + selecting["projector"]
        every = sum(selecting.values(), torch.zeros_like(frame))
        step = costs["step frame", 0] + total("step", self._held(path), costs) / self.adapter.depth
        return Cost(frame + blocks + layers + every, step, tower, every)

    def _selecting(self, path: TokenPath, costs: Costs, site: str) -> Tensor:
        count = len(self._selections(path, site))
        return total(f"select {site}", range(count), costs) if count else torch.zeros_like(costs["frame", 0])

    @staticmethod
    def _selections(path: TokenPath, site: str) -> list[Selection]:
        return [selection for selection in path.selections if selection.site == site]

    def _held(self, path: TokenPath) -> list[int]:
        """Return the tokens that each decoder layer's cache holds after the prompt."""
        seen = path.decoder[1:] if self.adapter.decoder.trims else path.decoder[:-1]
        return [self.text + count for count in seen]

    def _arm(self, name: str, seconds: Cost, flops: Cost) -> VLMArm:
        path, length = self.paths[name], self.settings.new_tokens
        assert self.adapter.tower is not None
        prefix, towered = self.adapter.tower.prefix, any(s.site == "vision" for s in self.plan.stages.values())
        whole = median(seconds.answer(length)).item()
        return VLMArm(
            throughput=1 / whole,
            ttft_seconds=median(seconds.first).item(),
            tower_seconds=median(seconds.tower).item(),
            ms_per_token=1e3 * median(seconds.step).item(),
            answer_seconds=whole,
            gflops=flops.answer(length).item() / 1e9,
            gflops_prefill=flops.first.item() / 1e9,
            gflops_decode_per_token=flops.step.item() / 1e9,
            kv_cache_bytes=sum(self.parts.cache_bytes(held) for held in self._held(path)),
            peak_memory_mib=None,
            tokens_per_layer=[float(self.text + count) for count in path.decoder[1:]],
            visual_tokens_per_layer=[float(count) for count in path.decoder[1:]],
            tower_tokens_per_block=[float(prefix + count) for count in path.tower[1:]] if towered else None,
        )

    def _seconds(self, works: Mapping[Any, Work], advance: Callable[[float], None]) -> dict[Any, Tensor]:
        """Time all works in turn."""
        device = self.adapter.net.device

        def seconds(work: Work, batch: int) -> float:
            started = clock(device)
            work()
            return clock(device) - started

        arms = {name: partial(seconds, work) for name, work in works.items()}
        return time_in_turn(arms, replace(self.settings, batches=1, warmup=0), advance)
