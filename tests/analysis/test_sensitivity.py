"""Pruning one layer at a time: right layers, right shares, and figures that a loop over images finds too."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

import families
import hf_families
from hf_families import assert_same_footprint, footprint
from saintprune.adapters.hf_vision import HFVision
from saintprune.adapters.vlm import VLM
from saintprune.analysis.sensitivity import METHODS, drop_sensitivity
from saintprune.errors import SaintpruneError
from saintprune.plan import Plan, Schedule
from saintprune.reduction.baselines import KeepAll, RandomDrop
from saintprune.reduction.tome import ToMe
from vlm_families import build, inputs


def batches(images=10):
    torch.manual_seed(6)
    pixels, labels = torch.randn(images, 3, 64, 64), torch.randint(0, 7, (images,))
    return [(pixels[:6], labels[:6]), (pixels[6:], labels[6:])]


def test_keeping_all_is_perfect_agreement():
    net, adapter, _ = families.make("vit")
    rows = drop_sensitivity(adapter(net), batches(), methods={"keep_all": KeepAll()})
    assert [(row.method, row.layer) for row in rows] == [("keep_all", layer) for layer in range(4)]
    for row in rows:
        assert row.samples == 10 and row.dropped == 0
        assert row.agreement == 1 and row.agreement_ci95 == (1, 1)
        assert row.feature_cosine == pytest.approx(1) and row.accuracy_change == 0


def test_rows_by_hand():
    net, adapter, _ = families.make("vit")
    adapter, data, done = adapter(net), batches(), []
    before = footprint(net)
    rows = drop_sensitivity(adapter, data, share=0.25, layers=[2, 1], advance=done.append)
    assert_same_footprint(before, footprint(net))
    assert done == [6, 10]
    assert [(row.method, row.layer) for row in rows] == [(name, layer) for name in METHODS for layer in (2, 1)]
    for row in rows:
        plan = Plan.vision(METHODS[row.method], [row.layer], schedule=Schedule(drop=0.25))
        whole, pruned, answers = [], [], torch.cat([labels for _, labels in data])
        for images, _ in data:
            for image in images:  # one by one: with a schedule no image depends on the others
                whole.append(net.forward_head(net.forward_features(image[None]), pre_logits=True))
                with adapter.pruned(plan):
                    pruned.append(net.forward_head(net.forward_features(image[None]), pre_logits=True))
        whole, pruned = torch.cat(whole), torch.cat(pruned)
        assert row.share == row.dropped == 0.25
        assert row.feature_cosine == pytest.approx(cosine_similarity(whole, pruned).mean().item(), abs=1e-5)
        assert row.feature_cosine_ci95[0] <= row.feature_cosine <= row.feature_cosine_ci95[1]
        whole, pruned = net.head(whole), net.head(pruned)
        same = (whole.argmax(1) == pruned.argmax(1)).double().mean().item()
        right, before_ = ((x.argmax(1) == answers).double().mean().item() for x in (pruned, whole))
        assert row.agreement == pytest.approx(same)
        assert row.accuracy == pytest.approx(right) and row.accuracy_change == pytest.approx(right - before_)
    assert len({row.feature_cosine for row in rows}) == len(rows), "methods and layers differ"


def test_what_was_dropped_is_told_where_a_method_cannot_drop_more():
    net, adapter, _ = families.make("vit")
    methods = {"random": RandomDrop(), "tome": ToMe()}
    rows = drop_sensitivity(adapter(net), batches(), share=0.75, layers=[0], methods=methods)
    assert [row.dropped for row in rows] == [0.75, 0.5]


def test_features_and_images_without_labels():
    net, adapter, images = families.make("vit")
    rows = drop_sensitivity(adapter(net), [images], layers=[1], classifies=False)
    assert all(row.agreement is None and row.accuracy is None and row.feature_cosine < 1 for row in rows)
    rows = drop_sensitivity(adapter(net), [(images, torch.full((3,), -1))], layers=[1])
    assert all(row.agreement is not None and row.accuracy is None for row in rows)


def test_a_tower_of_transformers():
    net, images = hf_families.make("clip")
    rows = drop_sensitivity(HFVision(net), [images], layers=[0, 3], classifies=False)
    assert [row.layer for row in rows] == [0, 3] * len(METHODS)
    assert all(row.dropped == 19 / 64 for row in rows)
    assert all(0 < row.feature_cosine < 1 - 1e-5 for row in rows if row.layer == 0)
    # after the attention of the last block nobody reads the patches any more: 1, and rounding does not exceed it
    assert all(1 - 1e-6 < row.feature_cosine <= 1 for row in rows if row.layer == 3)


@pytest.mark.parametrize("site", ["vision", "language"])
def test_vision_language_models(site):
    net = build("llava")
    batch = inputs("llava", net)
    net(**batch)  # transformers leaves a mark of its own at the first pass
    before = footprint(net)
    rows = drop_sensitivity(VLM(net), [batch], share=0.5, site=site, methods={"random": RandomDrop()})
    assert_same_footprint(before, footprint(net))
    assert [row.layer for row in rows] == list(range({"vision": 3, "language": 6}[site]))
    for row in rows:
        assert row.samples == 3 and row.dropped == 0.5 and row.accuracy is None and 0 <= row.agreement <= 1
    cosines = [row.feature_cosine for row in rows]
    last = cosines.pop() if site == "language" else 0
    assert max(cosines) < 1 - 1e-6
    if site == "language":
        assert last == pytest.approx(1), "after the last layer nobody looks at image tokens any more"


def test_what_cannot_be_measured():
    net, adapter, images = families.make("vit")
    with pytest.raises(ValueError, match="share is 1"):
        drop_sensitivity(adapter(net), [images], share=1)
    with pytest.raises(SaintpruneError, match="the network has 4 blocks"):
        drop_sensitivity(adapter(net), [images], layers=[4])
    with pytest.raises(SaintpruneError, match="site='language' has no layers to prune one by one in a Visio"):
        drop_sensitivity(adapter(net), [images], site="language")
    with pytest.raises(SaintpruneError, match=r"site='vision' has no layers .* in a SmolVLM.*: use language"):
        drop_sensitivity(VLM(build("smolvlm")), [images], site="vision")
    with pytest.raises(SaintpruneError, match="no batches"):
        drop_sensitivity(adapter(net), [])
