"""A classifier answers by another last layer for as long as its plan is in place, and is given back as it was."""

from dataclasses import replace

import pytest
import torch

import families
import hf_families
import vlm_families
from saintprune.adapters.cascade import margins
from saintprune.adapters.hf_decoder import HFDecoder
from saintprune.adapters.hf_vision import HFVision
from saintprune.adapters.vlm import VLM
from saintprune.calibration.correct import Corrector
from saintprune.correction import Correction
from saintprune.errors import NotForThisModelError, SaintpruneError
from saintprune.plan import Plan, Schedule
from saintprune.reduction.tome import ToMe

TOME = Plan.vision(ToMe(), "all", schedule=Schedule(drop=0.8))


def random_for(head, seed=0):
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(head.weight.shape, generator=random)
    return Correction(weight, torch.randn(len(weight), generator=random), 0.1, 10)


@pytest.mark.parametrize("family", [name for name in families.FAMILIES if name != "deit_distilled"])
def test_the_logits_are_those_of_the_changed_head(family):
    net, adapter, images = families.make(family)
    unpruned, before = net(images), hf_families.footprint(net)
    with adapter(net).pruned(TOME):
        features = net.forward_head(net.forward_features(images), pre_logits=True)
        pruned = net(images)
    change = random_for(net.head)
    expected = pruned + features @ change.weight.T + change.bias
    with adapter(net).pruned(replace(TOME, correction=change)):
        torch.testing.assert_close(net(images), expected, atol=1e-5, rtol=1e-5)
    hf_families.assert_same_footprint(before, hf_families.footprint(net))
    assert torch.equal(net(images), unpruned)


def test_a_classifier_of_transformers():
    net, images = hf_families.classifier()
    unpruned = net(images).logits
    with HFVision(net).pruned(TOME):
        features, pruned = net.vit(images).last_hidden_state[:, 0], net(images).logits
    change = random_for(net.classifier)
    with HFVision(net).pruned(replace(TOME, correction=change)):
        expected = pruned + features @ change.weight.T + change.bias
        torch.testing.assert_close(net(images).logits, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(net(images).logits, unpruned)


def test_each_look_has_its_own_and_the_unpruned_network_none():
    net, adapter, images = families.make("vit")
    images = torch.cat([images, -images, images.flip(-1)])
    unpruned, (one, other) = net(images), (random_for(net.head, seed) for seed in (1, 2))
    first, second = replace(TOME, correction=one), replace(TOME, correction=other, resize=0.5)
    with adapter(net).pruned(first):
        glance = net(images)
    with adapter(net).pruned(second):
        look = net(images)
    margin = margins(glance).median().item() + 1e-6
    unsure = margins(glance) < margin
    doubt = margins(look)[unsure].median().item() + 1e-6
    twice = unsure & (margins(look) < doubt)
    assert 0 < twice.sum() < unsure.sum() < len(images)
    with adapter(net).pruned(replace(first, defer=margin, second=replace(second, defer=doubt))):
        for _ in range(2):
            expected = torch.where(twice[:, None], unpruned, torch.where(unsure[:, None], look, glance))
            torch.testing.assert_close(net(images), expected, atol=5e-6, rtol=0)


def test_what_has_no_last_linear_layer_is_refused():
    for family, change in (("deit_distilled", lambda net: None), ("vit", lambda net: net.reset_classifier(0))):
        net, adapter, _ = families.make(family)
        correction = random_for(net.head)
        change(net)
        with pytest.raises(NotForThisModelError, match="from one linear layer, and VisionTransformer"):
            adapter(net).check(replace(TOME, correction=correction))
    net, adapter, _ = families.make("vit")
    with pytest.raises(SaintpruneError, match=r"for a head of 2x48 .classes x features., but this network's has 7x48"):
        adapter(net).check(replace(TOME, correction=Correction(torch.zeros(2, 48), torch.zeros(2), 0.1, 10)))
    net, adapter, _ = families.make("vit")
    correction = random_for(net.head)
    net.head.weight = torch.nn.Parameter(net.head.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(NotForThisModelError, match="are quantised"):
        Corrector(adapter(net), [])
    with pytest.raises(NotForThisModelError, match=r"weights of the last layer, .* are quantised \(torch.int8\)"):
        adapter(net).check(replace(TOME, correction=correction))
    plan, vlm = Plan(correction=correction), vlm_families.build("llava")
    with pytest.raises(NotForThisModelError, match="leave it out"):
        VLM(vlm).check(plan)
    with (
        pytest.raises(NotForThisModelError, match="leave it out"),
        HFDecoder(vlm.model.language_model).pruned(plan, visual=torch.ones(1, 4, dtype=torch.bool)),
    ):
        pass
