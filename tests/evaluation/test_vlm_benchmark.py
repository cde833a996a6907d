"""Timing of answers: the untouched model beside the pruned one, answers of one length, costs that fall."""

import pytest
import torch

from saintprune import Plan, Saint, Schedule, Stage
from saintprune.adapters.kv_cache import cache_lengths
from saintprune.adapters.vlm import VLM
from saintprune.evaluation.timing import BenchmarkSettings
from saintprune.evaluation.vlm_benchmark import VLMBenchmark
from saintprune.evaluation.vlm_noise import noise_prompts
from saintprune.evaluation.vlm_passes import read_prompt
from saintprune.evaluation.vlm_timing import faster_for_tokens
from saintprune.reduction.baselines import RandomDrop
from vlm_families import build, inputs

HALF = Schedule(drop=0.5)
HYBRID = Plan(
    {
        "vision": Stage("vision", [0], RandomDrop(), HALF),
        "language": Stage("language", [2], RandomDrop(), Schedule(drop=0.75)),
    }
)
RAGGED = Plan.language(Saint(0.1, min_neighbours=1, vote="sample"), "1:3")


def measured(net, plan, batches, **settings):
    settings = BenchmarkSettings(**{"pairs": 5, "max_seconds": 60, "warmup": 0, "new_tokens": 4, **settings})
    return VLMBenchmark(VLM(net), plan, batches, settings).run()


def test_pruning_costs_less():
    net = build("llava")
    batches = [noise_prompts(net, 2, 6, seed) for seed in range(2)]
    found = measured(net, HYBRID, batches)
    before, after = found.baseline, found.pruned
    assert found.pairs == 5 and found.batch_size == 2 and found.new_tokens == 4 and found.prompt_tokens == 22.0
    assert (
        after.gflops_prefill < before.gflops_prefill and after.gflops_decode_per_token < before.gflops_decode_per_token
    )
    for arm in (before, after):
        assert arm.gflops == pytest.approx(arm.gflops_prefill + 3 * arm.gflops_decode_per_token)
        assert 0 < arm.ttft_seconds < arm.answer_seconds and arm.tower_seconds > 0 and arm.ms_per_token > 0
        assert arm.throughput == pytest.approx(2 / arm.answer_seconds)
    assert before.visual_tokens_per_layer == [16.0] * 6 and before.tokens_per_layer == [22.0] * 6
    assert after.visual_tokens_per_layer == [8.0, 8.0, 4.0, 4.0, 4.0, 4.0]
    assert before.tower_tokens_per_block == [17.0] * 4 and after.tower_tokens_per_block == [9.0] * 4
    assert after.peak_memory_mib < before.peak_memory_mib
    for name in ("speedup", "ttft_speedup", "decode_speedup"):
        low, high = getattr(found, f"{name}_ci95")
        assert low <= getattr(found, name) <= high
    assert 0 < found.selector_overhead < 1 and found.efficiency > 0 and found.extrapolated is None


@pytest.mark.parametrize("plan", [HYBRID, RAGGED])
def test_cache_bytes_are_those_of_its_lengths(plan):
    net = build("llava")
    batch = noise_prompts(net, 2, 6)
    found = measured(net, plan, [batch])
    for arm, applied in ((found.baseline, Plan()), (found.pruned, plan)):
        with torch.inference_mode(), VLM(net).pruned(applied):
            lengths = cache_lengths(read_prompt(net, batch).past_key_values)
        assert arm.kv_cache_bytes == 2 * 2 * 8 * 4 * sum(lengths), "keys and values of 2 heads of 8 float32 numbers"


def test_prompts_of_several_images_or_none():
    net = build("llava")
    found = measured(net, RAGGED, [inputs("llava", net)])
    assert found.baseline.visual_tokens_per_layer == [16.0] * 6
    assert found.pruned.visual_tokens_per_layer[-1] < 16


def test_the_baseline_is_the_untouched_model(monkeypatch):
    net = build("llava")
    marks = []
    original = type(net).forward

    def watched(self, *args, **kwargs):
        marks.append(getattr(self, "_saintprune_active", False))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(net), "forward", watched)
    benchmark = VLMBenchmark(VLM(net), HYBRID, [noise_prompts(net, 1, 6)], BenchmarkSettings(new_tokens=4))
    for arm, touched in (("baseline", False), ("pruned", True), ("ideal", True)):
        marks.clear()
        with torch.inference_mode():
            benchmark._seconds(arm, 0)
        assert marks == [touched] * 4, "the prompt, and three further tokens"


def test_answers_have_one_length_whatever_they_say():
    net = build("llava")
    net.generation_config.eos_token_id = list(range(100))  # every token ends an answer
    found = measured(net, HYBRID, [noise_prompts(net, 1, 6)])
    assert found.new_tokens == 4 and found.baseline.answer_seconds > found.baseline.ttft_seconds


@pytest.mark.parametrize(
    ("first", "step", "lengths"),
    [
        (1.0, 0.1, (1, None)),
        (1.0, 0.0, (1, None)),
        (1.0, -0.3, (1, 4)),  # 1 - 3 * 0.3 is still saved, 1 - 4 * 0.3 is lost
        (-1.0, 0.3, (5, None)),  # -1 + 4 * 0.3
        (-1.0, 0.5, (4, None)),  # -1 + 2 * 0.5 saves nothing yet
        (-1.0, 0.0, None),
        (-1.0, -1.0, None),
    ],
)
def test_for_which_answers_time_is_saved(first, step, lengths):
    assert faster_for_tokens(first, step) == lengths
    if lengths is not None:
        shortest, longest = lengths
        assert first + (shortest - 1) * step > 0
        assert longest is None or first + longest * step <= 0 < first + (longest - 1) * step


def test_settings_are_checked():
    with pytest.raises(ValueError, match="new_tokens is 1, but must be at least 2"):
        BenchmarkSettings(new_tokens=1)
