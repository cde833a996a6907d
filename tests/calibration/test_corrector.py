"""Corrections are fitted to what each look of a plan does to images, which are looked at once."""

from dataclasses import replace

import pytest
import torch

import families
import vlm_families
from saintprune.calibration.correct import Corrector, search_corrected
from saintprune.calibration.search import Calibrator
from saintprune.calibration.targets import Target
from saintprune.correction import fit_correction
from saintprune.errors import NotForThisModelError, SaintpruneError
from saintprune.plan import Plan, Schedule
from saintprune.pruning import prune
from saintprune.reduction.tome import ToMe

TOME = Plan.vision(ToMe(), "all", schedule=Schedule(drop=0.9))


@pytest.fixture
def net():
    return families.make("vit")[0]


@pytest.fixture
def images():
    return torch.randn(48, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def passes(net, counted):
    return net.patch_embed.register_forward_pre_hook(lambda module, args: counted.append(len(args[0])))


def test_each_look_is_fitted_to_its_own_features(net, images):
    adapter = families.make("vit")[1](net)
    plan = replace(TOME, defer=0.3, resize=0.5, second=Plan.vision(ToMe(), "all", schedule=Schedule(drop=0.4)))
    found = Corrector(adapter, [(batch, "labels") for batch in images.split(20)]).corrected(plan)
    assert (found.defer, found.resize, found.stages) == (0.3, 0.5, plan.stages)
    unpruned = net(images)
    for look, first in zip(found.looks, (replace(TOME, resize=0.5), plan.second), strict=True):
        with adapter.pruned(first):
            features, logits = net.forward_head(net.forward_features(images), pre_logits=True), net(images)
        expected = fit_correction(features, logits, unpruned)
        assert look.correction.images == 48 and look.correction.penalty == expected.penalty
        torch.testing.assert_close(look.correction.weight, expected.weight, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(look.correction.bias, expected.bias, atol=1e-3, rtol=1e-3)


def test_it_brings_answers_back(net, images):
    corrected = Corrector(families.make("vit")[1](net), images).corrected(TOME)
    unpruned, losses = net(images).softmax(-1), []
    for plan in (TOME, corrected):
        with prune(net, plan):
            losses.append(-(unpruned * net(images).log_softmax(-1)).sum(-1).mean().item())
    assert losses[1] < losses[0]


def test_features_that_were_seen_are_not_asked_for_again(net, images):
    counted = []
    hook = passes(net, counted)
    corrector = Corrector(families.make("vit")[1](net), iter(images.split(16)))
    first = corrector.corrected(TOME)
    assert counted == [16] * 6, "unpruned and pruned"
    again = corrector.corrected(replace(TOME, defer=0.1, second=replace(TOME, resize=0.75)))
    assert counted == [16] * 6 + [16] * 3, "the second look alone"
    assert repr(again.correction) == repr(first.correction)
    net.head.weight.mul_(2)  # another head
    assert repr(corrector.corrected(TOME).correction) != repr(first.correction) and len(counted) == 9
    hook.remove()


@pytest.mark.parametrize("target", ["flops:0.9", "agreement:0.6", "tokens:0.9"])
@pytest.mark.parametrize(
    ("plan", "knob"),
    [
        (replace(TOME, defer=0.01), "schedule.drop"),
        (replace(TOME, resize=0.5, defer=0.1), "defer"),
        (TOME, "schedule.drop"),
    ],
)
def test_a_calibrated_plan_has_the_correction_of_what_was_found(net, images, plan, knob, target):
    adapter = families.make("vit")[1](net)
    calibrator, corrector = Calibrator(adapter, [images[:8], images[8:16]], pairs=1), Corrector(adapter, images[16:])
    found = search_corrected(calibrator, corrector, plan, Target.parse(target), 4)
    assert found.knob == knob and repr(found.plan.correction) == repr(corrector.corrected(found.plan).correction)
    measured = calibrator.measure(found.plan, timed=False)
    assert replace(found.measured, speedup=None) == measured and found.measured.speedup > 0
    plain = search_corrected(calibrator, None, plan, Target.parse(target), 4)
    assert plain.plan.correction is None


def test_a_loader_may_shuffle(net, images):
    class Shuffled:
        passes = 0

        def __iter__(self):
            self.passes += 1
            order = torch.randperm(48, generator=torch.Generator().manual_seed(self.passes))
            return iter(images[order].split(16))

    looks = [TOME, replace(TOME, resize=0.5)]
    corrector = Corrector(families.make("vit")[1](net), Shuffled())
    found = [corrector.corrected(look) for look in looks]
    assert corrector.images.passes == 2
    for look, one in zip(looks, found, strict=True):
        order = torch.randperm(48, generator=torch.Generator().manual_seed(1 + looks.index(look)))
        expected = Corrector(families.make("vit")[1](net), images[order]).corrected(look).correction
        assert one.correction.penalty == expected.penalty
        torch.testing.assert_close(one.correction.weight, expected.weight, atol=1e-3, rtol=1e-3)


def test_a_corrected_network_can_be_trained_through(net, images):
    net.requires_grad_(True)
    with prune(net, "ward", flops=0.8, images=images[:8], correct_on=images[8:]) as pruned:
        assert pruned.plan.correction.penalty < 100
        net(images[:2]).sum().backward()
    assert net.head.weight.grad is not None


def test_a_correction_is_for_the_plan_that_it_was_fitted_to(net, images, monkeypatch):
    with prune(net, "tome", drop=0.8, correct_on=images) as pruned:
        plan = pruned.plan
    with prune(net, plan, defer=0.1) as deferring:  # the first look is as it was
        assert repr(deferring.plan.correction) == repr(plan.correction)
    for changed in ({"drop": 0.9}, {"resize": 0.5}, {"layers": [1]}, {"flops": 0.8, "images": images[:8]}):
        with pytest.raises(SaintpruneError, match=r"fitted for its own stages.*give correct_on="):
            prune(net, plan, **changed)
        with monkeypatch.context() as by_name, pytest.raises(SaintpruneError, match="fitted for its own stages"):
            by_name.setattr("saintprune.named_plan._composed", lambda name: plan)
            prune(net, "a/corrected", **changed)
    with prune(net, plan, drop=0.9, correct_on=images) as pruned:
        assert repr(pruned.plan.correction) != repr(plan.correction)


def test_in_one_call(net, images):
    with prune(net, "tome", flops=0.7, images=images[:8], correct_on=images[8:]) as pruned:
        assert pruned.plan.correction.images == 40 and "corrected on 40 images" in repr(pruned)
        logits = net(images)
    assert net(images).shape == logits.shape and not net.head._forward_hooks
    with prune(net, pruned.plan):  # what was found is used again
        assert torch.equal(net(images), logits)
    with prune(net, "ward", drop=0.8, correct_on=iter([images[:24], images[24:]])) as pruned:
        assert pruned.plan.correction.images == 48 and pruned.calibrated is None
    with prune(net, ["tome", "ward"], flops=0.7, images=images[:8], correct_on=images[8:]) as pruned:
        assert pruned.plan.correction is not None


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda net, images: prune(net, "tome", flops=0.7, correct_on=images), SaintpruneError, "as images= as well"),
        (lambda net, images: prune(net, "tome", correct_on=images[:9]), SaintpruneError, "10 images at least"),
        (lambda net, images: prune(net, "tome", correct_on=[]), SaintpruneError, "no images to fit a correction on"),
        (lambda net, images: prune(net, "tome", correct_on=images[0]), SaintpruneError, r"must be \[B, C, H, W\]"),
        (lambda net, images: prune(net, "tome", correct_on=3), SaintpruneError, "images is a int"),
        (lambda net, images: prune(net.train(), "tome", correct_on=images), SaintpruneError, "training mode"),
        (
            lambda net, images: prune(families.make("deit_distilled")[0], "tome", correct_on=images),
            NotForThisModelError,
            "from one linear layer",
        ),
        (
            lambda net, images: prune(vlm_families.build("llava"), "saint_language", correct_on=images),
            NotForThisModelError,
            "from one linear layer",
        ),
    ],
)
def test_what_cannot_be_is_one_line(net, images, call, error, says):
    with pytest.raises(error, match=says) as caught:
        call(net, images)
    assert "\n" not in str(caught.value) and not net.head._forward_pre_hooks and "forward" not in net.blocks[0].__dict__
