"""A few layers predict the whole model: exactly where cost is FLOPs, which no machine disturbs."""

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from saintprune import Plan, Saint, SaintpruneError, Schedule, Stage, ToMe
from saintprune.adapters.kv_cache import cache_bytes
from saintprune.adapters.vlm import VLM
from saintprune.evaluation.layer_costs import handful, total
from saintprune.evaluation.layer_paths import Depths
from saintprune.evaluation.layer_sampling import LayerSampling
from saintprune.evaluation.timing import BenchmarkSettings
from saintprune.evaluation.vlm_noise import noise_prompts
from saintprune.evaluation.vlm_passes import go_on, longer, mask_of, pruned_counts, read_prompt, unpruned_counts
from saintprune.metrics.flops import flops_of
from saintprune.reduction.baselines import KeepAll, RandomDrop, Stride, TopKAttention
from saintprune.reduction.pool import Pool
from vlm_families import build

DEPTHS = Depths(decoder=8, tower=5)
SETTINGS = BenchmarkSettings(pairs=5, max_seconds=60, text_tokens=10, new_tokens=4)
PLANS = {
    "random": Plan.language(RandomDrop(), [3], schedule=Schedule(drop=0.5)),
    "saint, hybrid": Plan(
        {
            "vision": Stage("vision", [1, 3], Saint(), Schedule(keep=(50, 40))),
            "language": Stage("language", [1, 4, 5], Saint(), Schedule(keep=(0.4, 20, 12))),
        }
    ),
    "every site": Plan(
        {
            "vision": Stage("vision", [0], ToMe(), Schedule(drop=0.25)),
            "projector": Stage("projector", "all", TopKAttention(), Schedule(keep=(32,))),
            "language": Stage("language", [0, 7], Stride(), Schedule(keep=(16, 8))),
        }
    ),
    "more than at once": Plan.language(Saint(), [2], schedule=Schedule(keep=(4,))),  # Saint drops at most half
    "pool, then nothing": Plan(
        {
            "projector": Stage("projector", "all", Pool(), Schedule(drop=0.7)),
            "language": Stage("language", "all", KeepAll()),
        }
    ),
}


def model(depth, tower, width=32):
    small = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": 4}
    text = LlamaConfig(**small, num_hidden_layers=depth, num_key_value_heads=2, vocab_size=100)
    vision = CLIPVisionConfig(**small, num_hidden_layers=tower, image_size=32, patch_size=4)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=99, image_seq_length=64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlavaForConditionalGeneration(config).eval().requires_grad_(False)


def flops(works, advance):
    return {name: torch.tensor([float(flops_of(work)[0])] * 2) for name, work in works.items()}


@pytest.mark.parametrize("cache", ["keep", "trim"])
@pytest.mark.parametrize("name", PLANS)
def test_two_layers_predict_the_whole(name, cache):
    plan, whole = PLANS[name], VLM(model(8, 5), cache=cache)
    found = LayerSampling(VLM(model(2, 2), cache=cache), plan, DEPTHS, SETTINGS, measure=flops).run()
    prompt = noise_prompts(whole.net, 1, 10)
    for arm, applied in ((found.baseline, Plan()), (found.pruned, plan)):
        with torch.inference_mode(), whole.pruned(applied) as run:
            first, output = flops_of(lambda: read_prompt(whole.net, prompt))
            held = cache_bytes(output.past_key_values)
            mask, token = longer(mask_of(prompt), 1), prompt["input_ids"][:, :1]
            step, _ = flops_of(lambda: go_on(whole.net, token, mask, output.past_key_values))  # noqa: B023
        counts = pruned_counts(run) if applied is plan else unpruned_counts(whole, prompt, run)
        assert arm.tokens_per_layer == counts.layers and arm.visual_tokens_per_layer == counts.visual
        assert arm.kv_cache_bytes == held
        assert arm.gflops_decode_per_token * 1e9 == pytest.approx(step)
        assert arm.gflops_prefill * 1e9 == pytest.approx(first, rel=1e-3 if arm is found.pruned else 1e-9)
        assert arm.ttft_seconds == pytest.approx(arm.gflops_prefill * 1e9), "the clock counts FLOPs"
        assert arm.answer_seconds == pytest.approx(arm.ttft_seconds + 3e-3 * arm.ms_per_token)
    assert found.pruned.tower_tokens_per_block == pruned_counts(run).tower
    assert found.ttft_speedup == pytest.approx(found.baseline.ttft_seconds / found.pruned.ttft_seconds)


def test_seconds_come_from_parts_that_take_turns():
    shares = []
    found = LayerSampling(VLM(model(2, 2)), PLANS["saint, hybrid"], DEPTHS, SETTINGS).run(shares.append)
    assert found.pairs == 5 and found.batch_size == 1 and found.prompt_tokens == 74.0
    assert found.extrapolated == {
        "sampled_layers": 2, "sampled_vision_layers": 2, "depth": 8, "vision_depth": 5,
        "counts_measured": [22, 30, 36, 50, 74], "vision_counts_measured": [40, 50, 64],
    }  # fmt: skip
    assert 0 < found.baseline.tower_seconds < found.baseline.ttft_seconds < found.baseline.answer_seconds
    assert found.baseline.peak_memory_mib is None and 0 < found.selector_overhead < 1 and 0 < found.efficiency < 1
    low, high = found.speedup_ci95
    assert low <= found.speedup <= high
    assert shares == sorted(shares) and shares[-1] == 1.0


def test_many_schedules_are_interpolated():
    adapter = VLM(model(2, 2))
    plan = Plan.language(Stride(), "all", schedule=Schedule(drop=0.8))
    found = LayerSampling(adapter, plan, DEPTHS, SETTINGS, measure=flops).run()
    whole = VLM(model(8, 5))
    prompt = noise_prompts(whole.net, 1, 10)
    with torch.inference_mode(), whole.pruned(plan):
        wanted, _ = flops_of(lambda: read_prompt(whole.net, prompt))
    assert len(found.extrapolated["counts_measured"]) == 5 < 8
    assert found.pruned.gflops_prefill * 1e9 == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            Plan.language(Saint(), [3]),
            "Saint decides by what it sees .* so 2 layers cannot stand for 8: give the stage",
        ),
        (Plan.language(ToMe(), [3]), "ToMe decides"),
        (Plan.language(Stride(), [8], schedule=Schedule(drop=0.5)), r"has 8, but the network has 8 blocks"),
        (
            Plan.vision(Stride(), [4], schedule=Schedule(drop=0.5)),
            "has 4, but this model reads its features after block 3",
        ),
    ],
)
def test_plans_are_for_the_whole_model(plan, message):
    with pytest.raises(SaintpruneError, match=message):
        LayerSampling(VLM(model(2, 2)), plan, DEPTHS, SETTINGS)


def test_other_architectures_are_refused():
    with pytest.raises(SaintpruneError, match="LLaVA only, not for Qwen2_5_VLForConditionalGeneration"):
        LayerSampling(VLM(build("qwen")), PLANS["random"], DEPTHS, SETTINGS)


def test_half_precision_and_one_layer():
    found = LayerSampling(VLM(model(1, 2).bfloat16()), PLANS["every site"], DEPTHS, SETTINGS, measure=flops).run()
    whole = LayerSampling(VLM(model(2, 2)), PLANS["every site"], DEPTHS, SETTINGS, measure=flops).run()
    assert found.pruned.gflops_prefill == pytest.approx(whole.pruned.gflops_prefill)
    assert found.pruned.kv_cache_bytes == whole.pruned.kv_cache_bytes / 2


def test_handful():
    assert handful(range(3)) == [0, 1, 2]
    assert handful([10, 11, 12, 13, 14, 15, 16, 17, 90]) == [10, 12, 14, 16, 90]


def test_total_interpolates():
    costs = {
        ("layer", 10): torch.tensor([1.0, 2.0]),
        ("layer", 20): torch.tensor([3.0, 4.0]),
        ("step", 1): torch.ones(2),
    }
    assert total("layer", [10, 15, 20, 20], costs).tolist() == [1 + 2 + 3 + 3, 2 + 3 + 4 + 4]
