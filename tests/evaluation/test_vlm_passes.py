"""Reading a prompt and going on is what `generate` does, in every architecture; noise has the shape of prompts."""

import pytest
import torch

from saintprune import Plan, Schedule, Stage
from saintprune.adapters.vlm import VLM
from saintprune.evaluation.vlm_noise import noise_prompts
from saintprune.evaluation.vlm_passes import answer, pruned_counts, read_prompt, see_images, unpruned_counts
from saintprune.reduction.baselines import RandomDrop
from vlm_families import IMAGE, VLMS, build, inputs

PLANS = {"nothing": Plan(), "half": Plan.language(RandomDrop(), "1:4", schedule=Schedule(drop=0.5))}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", VLMS)
def test_answers_are_those_of_generate(name, plan):
    net = build(name)
    batch = inputs(name, net)
    with torch.inference_mode(), VLM(net).pruned(PLANS[plan]):
        wanted = net.generate(**batch, do_sample=False, min_new_tokens=6, max_new_tokens=6, eos_token_id=None)
        found = torch.cat(list(answer(net, batch, 6)), dim=1)
    assert torch.equal(found, wanted[:, batch["input_ids"].shape[1] :])


@pytest.mark.parametrize("name", VLMS)
def test_noise_has_the_shape_of_prompts(name):
    net = build(name)
    batch = noise_prompts(net, 2, text_tokens=7)
    visual = (batch["input_ids"] == IMAGE).sum(1)
    assert batch["input_ids"].shape[1] == visual[0] + 7 and visual[0] == visual[1] > 0
    adapter = VLM(net)
    with torch.inference_mode(), adapter.pruned(PLANS["half"]) as run:
        assert read_prompt(net, batch).logits.shape == (2, 1, 100)
        assert sum(len(image) for image in see_images(net, batch).pooler_output) == visual.sum()
    assert run.visual_tokens_per_layer[-1] == pytest.approx(visual[0] / 2, abs=1)
    assert unpruned_counts(adapter, batch, run).visual == [visual[0]] * 6
    again, other = noise_prompts(net, 2, 7), noise_prompts(net, 2, 7, seed=1)
    assert torch.equal(batch["pixel_values"], again["pixel_values"]) and torch.equal(
        batch["input_ids"], again["input_ids"]
    )
    assert not torch.equal(batch["input_ids"], other["input_ids"])


def test_counts_are_means_over_samples_without_padding():
    net = build("llava")
    batch = inputs("llava", net)  # one image, two, none
    adapter = VLM(net)
    plan = {"vision": Stage("vision", [0], RandomDrop(), Schedule(drop=0.5)), **PLANS["half"].stages}
    with torch.inference_mode(), adapter.pruned(Plan(plan)) as run:
        read_prompt(net, batch)
    before, after = unpruned_counts(adapter, batch, run), pruned_counts(run)
    assert before.visual == [16.0] * 6 and before.layers == [batch["attention_mask"].sum().item() / 3] * 6
    assert before.tower == [17.0] * 4 and after.tower == [9.0] * 4
    assert after.visual == pytest.approx([8, 8, 8, 8, 8, 8]), "half is gone before the decoder"
    assert [b - a for b, a in zip(before.layers, after.layers, strict=True)] == pytest.approx([8] * 6)


def test_without_images_nothing_is_seen():
    net = build("llava")
    batch = inputs("llava", net, images=(0, 0), padding=(0, 2))
    assert see_images(net, batch) is None
    plan = Plan({"vision": Stage("vision", [0], RandomDrop(), Schedule(drop=0.5))})
    with torch.inference_mode(), VLM(net).pruned(plan) as run:
        read_prompt(net, batch)
    assert pruned_counts(run).tower is None and pruned_counts(run).visual == [0.0] * 6
