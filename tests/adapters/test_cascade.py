"""What the pruned network is unsure of, a second plan or the unpruned one answers, and nothing else changes."""

from dataclasses import replace

import pytest
import torch

import families
import hf_families
from saintprune.adapters.cascade import margins
from saintprune.adapters.hf_vision import HFVision
from saintprune.adapters.vlm import VLM
from saintprune.config import compose_run
from saintprune.errors import NotForThisModelError, SaintpruneError
from saintprune.metrics.flops import count_flops
from saintprune.plan import Plan, Schedule, Stage
from saintprune.pruning import prune
from saintprune.reduction.saint import Saint
from saintprune.reduction.tome import ToMe
from saintprune.reduction.ward import Ward

WARD = Stage("vision", "::2", Ward(), Schedule(drop=0.9), spread=True)
RAGGED = Stage("vision", "all", Saint(0.3, min_neighbours=1, vote="sample"))
STAGES = {"ward": WARD, "ragged": RAGGED, "tome": Stage("vision", "all", ToMe(), Schedule(drop=0.9))}


def halves(logits):
    """A margin that half of the images fall short of."""
    return margins(logits).median().item() + 1e-6


def test_margins_by_hand():
    logits = torch.tensor([[0.0, 0.0, -9e9], [torch.tensor(3.0).log(), 0.0, -9e9], [5.0, 5.0, 5.0]])
    torch.testing.assert_close(margins(logits), torch.tensor([0.0, 0.5, 0.0]))
    assert margins(logits.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("family", families.FAMILIES)
@pytest.mark.parametrize("stage", STAGES)
def test_the_unsure_get_the_unpruned_answer_and_the_sure_keep_theirs(family, stage):
    net, adapter, images = families.make(family)
    images = torch.cat([images, -images])
    stages = {"vision": STAGES[stage] if family not in ("eva02", "post_norm", "eva_post_norm") else STAGES["tome"]}
    unpruned = net(images)
    before = hf_families.footprint(net)
    with adapter(net).pruned(Plan(stages)) as run:
        pruned = net(images)
        first, entry = run.tokens_per_layer, run.tokens_at_entry
    with adapter(net).pruned(Plan(stages, defer=halves(pruned))) as run:
        found = net(images)
        assert torch.equal(run.deferred, margins(pruned) < halves(pruned)) and run.deferred.sum() == 3
        torch.testing.assert_close(found[run.deferred], unpruned[run.deferred], atol=2e-6, rtol=0)
        assert torch.equal(found[~run.deferred], pruned[~run.deferred])
        assert run.tokens_per_layer == pytest.approx([tokens + entry / 2 for tokens in first])
        assert torch.equal(net(images), found), "it prunes again after a second pass"
    hf_families.assert_same_footprint(before, hf_families.footprint(net))
    assert torch.equal(net(images), unpruned)


@pytest.mark.parametrize("family", families.FAMILIES)
@pytest.mark.parametrize("sides", [None, 0.5])
def test_a_second_plan_answers_the_unsure_and_the_unpruned_network_what_that_is_unsure_of(family, sides):
    net, adapter, images = families.make(family)
    images = torch.cat([images, -images, images.flip(-1)])
    stage = STAGES["ward" if family not in ("eva02", "post_norm", "eva_post_norm") else "tome"]
    first = Plan({"vision": stage}, resize=sides if adapter(net)._embedding else None)
    second = Plan({"vision": replace(STAGES["tome"], schedule=Schedule(drop=0.4))})
    unpruned, before, seen = net(images), hf_families.footprint(net), []
    for plan in (first, second):
        with adapter(net).pruned(plan) as run:
            seen.append((net(images), run.tokens_per_layer, run.tokens_at_entry))
    (glance, tokens, _), (look, more, entry) = seen
    margin, doubt = halves(glance), margins(look)[margins(glance) < halves(glance)].median().item() + 1e-6
    unsure = margins(glance) < margin
    twice = unsure & (margins(look) < doubt)
    assert 0 < twice.sum() < unsure.sum() < len(images)
    with adapter(net).pruned(replace(first, defer=margin, second=replace(second, defer=doubt))) as run:
        for _ in range(2):  # it prunes again after all passes
            found = net(images)
            expected = torch.where(twice[:, None], unpruned, torch.where(unsure[:, None], look, glance))
            torch.testing.assert_close(found, expected, atol=5e-6, rtol=0)
            assert torch.equal(found[~unsure], glance[~unsure])
            assert torch.equal(run.times_deferred, unsure.long() + twice.long()) and len(run.looks) == 2
            shares = unsure.double().mean().item(), twice.double().mean().item()
            assert run.tokens_per_layer == pytest.approx(
                [a + shares[0] * b + shares[1] * entry for a, b in zip(tokens, more, strict=True)]
            )
    with adapter(net).pruned(replace(first, defer=margin, second=second)) as run:
        torch.testing.assert_close(net(images), torch.where(unsure[:, None], look, glance), atol=5e-6, rtol=0)
        assert torch.equal(run.times_deferred, unsure.long())
    with adapter(net).pruned(replace(first, defer=1e-9, second=second)) as run:
        assert torch.equal(net(images), glance) and run.looks == [run] and run.tokens_per_layer == tokens
    hf_families.assert_same_footprint(before, hf_families.footprint(net))
    assert torch.equal(net(images), unpruned)


def test_all_or_none_are_deferred_and_flops_count_both_passes():
    net, adapter, images = families.make("vit")
    unpruned, whole = net(images), count_flops(net, images)[0]
    with adapter(net).pruned(Plan({"vision": WARD})):
        pruned, once = net(images), count_flops(net, images)[0]
    with adapter(net).pruned(Plan({"vision": WARD}, defer=1.0)):
        cost, found = count_flops(net, images)
        assert torch.equal(found, unpruned) and cost == pytest.approx(once + whole)
    second = Plan({"vision": STAGES["tome"]})
    with adapter(net).pruned(second):
        twice = count_flops(net, images)[0]
    with adapter(net).pruned(Plan({"vision": WARD}, defer=1.0, second=replace(second, defer=1.0))) as run:
        assert count_flops(net, images)[0] == pytest.approx(once + twice + whole)
        assert run.times_deferred.tolist() == [2] * len(images)
    with adapter(net).pruned(Plan({"vision": WARD}, defer=1e-9)) as run:
        cost, found = count_flops(net, images)
        assert torch.equal(found, pruned) and cost == once and not run.deferred.any()


def test_what_an_earlier_pass_deferred_is_forgotten():
    net, adapter, images = families.make("vit")
    with adapter(net).pruned(Plan({"vision": WARD}, defer=1.0)) as run:
        net(images)
        assert run.deferred.all()
        net.forward_features(images)  # not through the classifier: no second pass
        assert run.deferred is None and run.tokens_per_layer[-1] < run.tokens_at_entry


def test_an_image_does_not_depend_on_its_batch():
    net, adapter, images = families.make("dinov2")
    images = torch.cat([images, -images])
    with adapter(net).pruned(Plan({"vision": WARD})):
        margin = halves(net(images))
    with adapter(net).pruned(Plan({"vision": WARD}, defer=margin)) as run:
        together, deferred = net(images), run.deferred
        for row in range(len(images)):
            torch.testing.assert_close(net(images[row : row + 1])[0], together[row], atol=2e-6, rtol=0)
            assert run.deferred.tolist() == [deferred[row].item()]


def test_gradients_flow_through_both_passes():
    net, adapter, images = families.make("vit")
    with adapter(net).pruned(Plan({"vision": WARD})):
        margin = halves(net(images))
    images = images.clone().requires_grad_()
    with adapter(net).pruned(Plan({"vision": WARD}, defer=margin)) as run:
        net(images).square().sum().backward()
        assert 0 < run.deferred.sum() < 3
    assert images.grad is not None and (images.grad.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize("fails", [2, 3])
def test_an_error_in_a_later_pass_leaves_the_pruning_as_it_was(fails):
    net, adapter, images = families.make("vit")
    before, calls = hf_families.footprint(net), []
    second = Plan({"vision": STAGES["tome"]}, defer=1.0) if fails == 3 else None

    def fails_when_called_again(module, args):
        calls.append(len(args[0]))
        if len(calls) == fails:
            raise RuntimeError("out of memory")

    with adapter(net).pruned(Plan({"vision": WARD}, defer=1.0, second=second)) as run:
        hook = net.patch_embed.register_forward_pre_hook(fails_when_called_again)
        with pytest.raises(RuntimeError, match="out of memory"):
            net(images)
        hook.remove()
        net(images)
        assert calls == [3] * fails and len(run.events) == 2 and run.deferred.all()
    hf_families.assert_same_footprint(before, hf_families.footprint(net))


def test_a_classifier_of_transformers():
    net, images = hf_families.classifier()
    unpruned = net(pixel_values=images).logits
    with HFVision(net).pruned(Plan({"vision": WARD})):
        pruned = net(pixel_values=images).logits
    with HFVision(net).pruned(Plan({"vision": WARD}, defer=halves(pruned))) as run:
        output = net(pixel_values=images, output_hidden_states=True, interpolate_pos_encoding=False)
        assert run.deferred.sum() == 3 and len(output.hidden_states) == 5
        torch.testing.assert_close(output.logits, torch.where(run.deferred[:, None], unpruned, pruned))
        assert output[0] is output.logits
        with pytest.raises(SaintpruneError, match="without labels"):
            net(pixel_values=images, labels=torch.zeros(6, dtype=torch.long))
        with pytest.raises(SaintpruneError, match="a tuple"):
            net(pixel_values=images, return_dict=False)
    plan = Plan({"vision": WARD}, defer=halves(pruned), second=Plan({"vision": STAGES["tome"]}, defer=1.0))
    with HFVision(net).pruned(plan) as run:
        again = net(pixel_values=images).logits
        assert run.times_deferred.tolist() == [2 * deferred for deferred in run.deferred.tolist()]
        torch.testing.assert_close(again, torch.where(run.deferred[:, None], unpruned, pruned))
    margin = margins(pruned).min().item()  # of the surest network that is pruned at all: few fall short of it
    with prune(net, "ward", flops=0.8, defer=margin / 2, images=images) as calibrated:
        assert calibrated.calibrated.measured.flops <= 0.8 and f"defer: {margin / 2:g}" in repr(calibrated)
        assert calibrated.plan.defer == margin / 2


def test_only_classifiers_defer():
    plan = Plan({"vision": WARD}, defer=0.2)
    features, adapter, _ = families.make("vit")
    features.reset_classifier(0)
    with pytest.raises(NotForThisModelError, match="VisionTransformer is none: leave defer out"):
        prune(features, plan)
    with (
        pytest.raises(NotForThisModelError, match="CLIPVisionModel is none"),
        HFVision(hf_families.make("clip")[0]).pruned(plan),
    ):
        pass
    import vlm_families

    with pytest.raises(NotForThisModelError, match="is none"):
        VLM(vlm_families.build("llava")).check(plan)
    elsewhere = Plan.language(ToMe(), "all", schedule=Schedule(drop=0.5))
    with pytest.raises(NotForThisModelError, match=r"stages\.language\.site is 'language'"):
        prune(families.make("vit")[0], Plan({"vision": WARD}, defer=0.2, second=elsewhere))
    net, adapter, images = families.make("vit")
    net.reset_classifier(1)
    with (
        pytest.raises(SaintpruneError, match=r"two classes or more, but the output is \[3, 1\]"),
        adapter(net).pruned(plan),
    ):
        net(images)


def test_a_second_plan_needs_something_deferred():
    with pytest.raises(ValueError, match="nothing is deferred"):
        Plan({"vision": WARD}, second=Plan())
    with pytest.raises(ValueError, match="must be a plan"):
        Plan({"vision": WARD}, defer=0.2, second={})


def test_named_stages_are_located_in_every_plan():
    aligner = Plan({"vision": replace(WARD, layers="aligner")}, defer=0.2)
    found = replace(aligner, second=aligner).located(lambda name, site: (1, 2))
    assert [look.stages["vision"].layers for look in found.looks] == [(1, 2), (1, 2)]


@pytest.mark.parametrize("margin", [0, -0.1, 1.1, float("nan")])
def test_a_margin_is_a_difference_of_probabilities(margin):
    with pytest.raises(ValueError, match="defer is"):
        Plan({"vision": WARD}, defer=margin)
    with pytest.raises(SaintpruneError, match="defer is"):
        prune(families.make("vit")[0], "ward", defer=margin)
    with pytest.raises(SaintpruneError, match="defer is"):
        from saintprune.named_plan import make

        make(compose_run(["pruning=ward", f"+pruning.defer={margin}"])[0], "pruning")
