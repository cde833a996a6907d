"""The one-liner: what engineers with a network of timm or transformers call, and what it tells them."""

from __future__ import annotations

import gc
import warnings
from typing import assert_type

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

import families
import hf_families
import saintprune
import vlm_families
from saintprune import VLM, HFVision, Plan, Pruned, Saint, SaintpruneError, Schedule, TimmEva, TimmViT, ToMe, prune
from saintprune.calibration.search import Calibrator


@pytest.fixture
def net():
    return families.make("vit")[0]


@pytest.fixture
def images():
    return torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def by_flops(monkeypatch):
    """Seconds of networks this small are chance: let a speed-up be that of the FLOPs."""
    monkeypatch.setattr(Calibrator, "_speedup", lambda self, plan: 1 / self.measure(plan, timed=False).flops)


@torch.no_grad()
def test_in_a_with_block(net, images) -> None:
    before, found = hf_families.footprint(net), net(images)
    with saintprune.prune(net, "saint", speedup=1.3, images=images) as pruned:
        assert_type(pruned, Pruned)
        logits = net(images)
    assert not torch.equal(logits, found) and torch.equal(net(images), found)
    hf_families.assert_same_footprint(before, hf_families.footprint(net))
    assert len(pruned.tokens_per_layer) == 4 and pruned.tokens_per_layer[-1] < 17
    assert pruned.calibrated.measured.speedup >= 1.3 and pruned.calibrated.images == 6
    assert pruned.plan.stages["vision"].method.threshold == pruned.calibrated.value
    assert "speed-up 1." in repr(pruned) and "Saint" in repr(pruned)


@torch.no_grad()
def test_until_it_is_restored_also_if_nobody_keeps_the_handle(net, images) -> None:
    found = net(images)
    prune(net, "tome", drop=0.5)
    gc.collect()
    assert not torch.equal(net(images), found)
    with pytest.raises(SaintpruneError, match=r"call restore\(\)"):
        prune(net, "tome", drop=0.5)
    net._saintprune_handle.restore()
    assert torch.equal(net(images), found)
    handle = prune(net, "tome", drop=0.5)
    handle.restore()
    handle.restore()
    assert torch.equal(net(images), found) and "_saintprune_handle" not in net.__dict__


@pytest.mark.parametrize(
    ("make", "kind", "method"),
    [
        (lambda: families.make("deit_distilled")[0], TimmViT, "saint"),
        (lambda: families.make("dinov3")[0], TimmEva, "tome"),
        (lambda: hf_families.make("siglip")[0], HFVision, "tome"),
        (lambda: vlm_families.build("llava"), VLM, "drop50/random_vision"),
    ],
)
def test_the_adapter_is_that_of_the_network(make, kind, method) -> None:
    with prune(make(), method, **({"layers": [1]} if kind is VLM else {"drop": 0.5})) as pruned:
        assert type(pruned.adapter) is kind


def test_targets_are_met_on_a_tower_of_transformers() -> None:
    net, images = hf_families.make("dinov2")
    with prune(net, "tome", tokens=0.7, images={"pixel_values": images}) as pruned, torch.no_grad():
        net(pixel_values=images)
    assert pruned.calibrated.measured.tokens <= 0.7 and pruned.calibrated.measured.agreement is None
    assert pruned.tokens_per_layer[-1] < 65


def test_a_classifier_around_a_tower_agrees_or_does_not() -> None:
    config = ViTConfig(**hf_families.SMALL, **hf_families.MLP, num_labels=5)
    images = torch.randn(6, 3, 32, 32)
    with prune(ViTForImageClassification(config).eval(), "random", agreement=0.8, images=images) as pruned:
        assert pruned.calibrated.measured.agreement >= 0.8 and isinstance(pruned.adapter, HFVision)


def test_a_vision_language_model_is_calibrated_on_prompts() -> None:
    net = vlm_families.build("llava")
    inputs = vlm_families.inputs("llava", net)
    with prune(net, "random_language", tokens=0.6, images=inputs, layers=[1, 2]) as pruned, torch.no_grad():
        net(**inputs)
    measured = pruned.calibrated.measured
    assert measured.tokens <= 0.6 and 0 < measured.flops < 1 and 0 <= measured.agreement <= 1
    assert pruned.calibrated.images == 3
    assert sum(pruned.tokens_per_layer) == pytest.approx(measured.tokens * 16 * 6)


@pytest.mark.parametrize(("name", "layers"), [("random_projector", 1), ("drop50/random_vision", 2)])
def test_out_of_reach_counts_the_layers_of_the_stage(name, layers) -> None:
    net = vlm_families.build("llava")
    with pytest.raises(SaintpruneError, match=f"out of reach.* on {layers} layers"):
        prune(net, name, flops=0.001, images=vlm_families.inputs("llava", net))


def test_prompts_that_are_padded_on_the_right_are_refused() -> None:
    net = vlm_families.build("llava")
    inputs = dict(vlm_families.inputs("llava", net))
    inputs["attention_mask"] = inputs["attention_mask"].flip(1)
    assert not inputs["attention_mask"][:, -1].all(), "else nothing is padded"
    with pytest.raises(SaintpruneError, match="padding_side = 'left'"):
        prune(net, "random_language", tokens=0.6, images=inputs)


def test_layers_may_be_numbers_of_numpy(net) -> None:
    with prune(net, "tome", layers=np.arange(2), drop=0.5) as pruned:
        assert pruned.plan.stages["vision"].layers == (0, 1)


def test_drop_keeps_the_shape_of_the_schedule(net) -> None:
    with prune(net, "ward", drop=0.5) as pruned:
        assert pruned.plan.stages["vision"].schedule == Schedule(drop=0.5, steepness=2.2)
    with prune(net, "tome", drop=0.5) as pruned:
        assert pruned.plan.stages["vision"].schedule == Schedule(drop=0.5)


def test_of_several_methods_the_one_that_keeps_the_most_answers(net, images) -> None:
    names = ["ward", "downsample", "random"]
    alone = {}
    for name in names:
        with prune(net, name, flops=0.6, images=images) as pruned:
            alone[name] = pruned.calibrated
    best = max(alone.values(), key=lambda found: found.measured.agreement)
    assert len({found.measured.agreement for found in alone.values()}) > 1, "else anything would pass"
    for order in (names, names[::-1]):
        with prune(net, order, flops=0.6, images=images) as pruned:
            assert pruned.calibrated.measured.agreement == best.measured.agreement and pruned.run.depth == 4
    with prune(net, ["ats", "downsample"], flops=0.6, images=images) as pruned:  # one of them cannot get there
        assert pruned.calibrated.knob == "resize"
    by_cost = []
    for method in (*names, names):
        with prune(net, method, agreement=0.8, images=images) as pruned:
            by_cost.append(pruned.calibrated.measured.flops)
    assert by_cost[-1] == min(by_cost[:-1]) < max(by_cost)
    with pytest.raises(SaintpruneError, match="chosen among by what they do to images"):
        prune(net, names)
    with pytest.raises(SaintpruneError, match="no method is given"):
        prune(net, [])
    with pytest.raises(SaintpruneError, match=r"flops:0\.01 is out of reach"):
        prune(net, ["ats", "evit"], flops=0.01, images=images)
    net.reset_classifier(0)
    with pytest.raises(SaintpruneError, match="this network gives features"):
        prune(net, names, flops=0.6, images=images)


def test_a_loader_is_read_no_further_than_needed(net, images) -> None:
    def loader():
        yield images, torch.zeros(6)
        yield images[:4], torch.zeros(4)
        raise AssertionError("read too far")

    with prune(net, "random", flops=0.7, images=loader(), samples=10) as pruned:
        assert pruned.calibrated.images == 6, "batches of one size"


def test_noise_is_pointed_out(net) -> None:
    with (
        pytest.warns(UserWarning, match=r"noise \(8x3x64x64\): give images="),
        prune(net, "random", flops=0.7) as pruned,
    ):
        assert pruned.calibrated.measured.flops <= 0.7
    with pytest.warns(UserWarning, match="tokens are unlike those of pictures"):
        prune(net, "saint", flops=0.7).restore()


def test_the_numbers_of_a_plan_are_the_callers(net, recwarn) -> None:
    prune(net, Plan.vision(Saint(threshold=0.9))).restore()
    assert not recwarn.list


def test_a_threshold_of_another_network_is_pointed_out(net) -> None:
    with pytest.warns(UserWarning, match=r"threshold=0.75 is that of the paper's networks.*do not transfer"):
        prune(net, "saint").restore()
    with pytest.warns(UserWarning, match=r"threshold=0.9878 is that of vit_s14"):
        prune(net, "vit_s14/saint_speedup2").restore()
    with warnings.catch_warnings(action="error"):
        prune(net, "saint", threshold=0.9).restore()


def test_settings_go_where_they_belong(net) -> None:
    with prune(net, "saint", threshold=0.9, min_neighbours=2, layers=[3], drop=0.25) as pruned:
        stage = pruned.plan.stages["vision"]
    assert stage.method == Saint(threshold=0.9, min_neighbours=2)
    assert (stage.layers, stage.schedule) == ((3,), Schedule(drop=0.25))
    model = vlm_families.build("llava")
    with prune(
        model,
        "saint_hybrid",
        vision={"layers": [1], "schedule": Schedule(drop=0.3)},
        language={"layers": [2], "threshold": 0.9},
    ) as pruned:
        assert pruned.plan.stages["vision"].layers == (1,)
        assert pruned.plan.stages["language"].method.threshold == 0.9


def test_a_plan_that_was_found_is_used_again(net, images) -> None:
    with prune(net, Plan.vision(ToMe(), "all"), flops=0.7, images=images) as first:
        pass
    with prune(net, first.plan) as again, torch.no_grad():
        net(images)
    assert again.plan == first.plan and again.calibrated is None


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda net: prune(net, "sant"), r"no pruning is called 'sant' \(did you mean 'saint'\?\); there are ats, att"),
        (lambda net: prune(torch.nn.Linear(1, 1)), "no adapter prunes a Linear. Known are VisionTransformer and Eva"),
        (lambda net: prune(net, "tome", speedup=2.0, drop=0.5), "give one of speedup, flops.*not speedup and drop"),
        (lambda net: prune(net, "tome", images=torch.zeros(1, 3, 64, 64)), "to calibrate on: give speedup="),
        (lambda net: prune(net, "tome", speedup=0.5), "impossible: speedup takes a factor above 1"),
        (lambda net: prune(net, "tome", drop=1.5), "drop is 1.5, but must be a share between 0 and 1"),
        (lambda net: prune(net, "saint", treshold=0.9), r"no 'treshold' \(did you mean 'threshold'\?\); it takes"),
        (lambda net: prune(net, "saint", threshold="high"), "stages.vision: "),
        (lambda net: prune(net, "saint", layers=[9], drop=0.5), "has 9, but the network has 4 blocks"),
        (lambda net: prune(net, "saint_hybrid", threshold=0.9), r"the stages vision, language; say which"),
        (lambda net: prune(net, "random_language"), "only stages with site=vision apply"),
        (lambda net: prune(net, "random", flops=0.01, images=torch.randn(2, 3, 64, 64)), "out of reach"),
        (lambda net: prune(net, "random", flops=0.5, images=torch.randn(3, 64, 64)), r"but must be \[B, C, H, W\]"),
        (lambda net: prune(net, "random", flops=0.5, images=3), "images is a int, but must be a tensor"),
        (lambda net: prune(net, "random", flops=0.5, images=[]), "images is empty"),
        (lambda net: prune(net.train(), "random", flops=0.5), r"in training mode.*net.eval\(\)"),
        (lambda net: prune(vlm_families.build("llava"), "random_vision", flops=0.5), "no pruning is called"),
        (
            lambda net: prune(vlm_families.build("llava"), "random", flops=0.5),
            r"calibrated on prompts: give images=processor",
        ),
        (
            lambda net: prune(vlm_families.build("llava"), "random", flops=0.5, images=torch.zeros(1, 3, 16, 16)),
            "with input_ids and pixel_values, but images has Tensor",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(net, call, says) -> None:
    with pytest.raises(SaintpruneError, match=says) as error:
        call(net)
    assert "\n" not in str(error.value)
    assert "forward" not in net.blocks[0].__dict__
