"""A tower that sees smaller images answers as the library's own does when it is given them."""

import pytest
import timm
import torch
import torch.nn.functional as F

import families
import hf_families
from saintprune.adapters.cascade import margins
from saintprune.adapters.hf_decoder import HFDecoder
from saintprune.adapters.hf_vision import HFVision
from saintprune.adapters.resize import shrunk
from saintprune.adapters.vlm import VLM
from saintprune.errors import NotForThisModelError, SaintpruneError
from saintprune.metrics.flops import count_flops
from saintprune.plan import Plan, Schedule, Stage
from saintprune.pruning import prune
from saintprune.reduction.tome import ToMe
from saintprune.reduction.ward import Ward

TOME = Stage("vision", "all", ToMe(), Schedule(drop=0.5))


def smaller(images, side):
    return F.interpolate(images, (side, side), mode="bicubic", antialias=True, align_corners=False)


@pytest.mark.parametrize(
    ("size", "share", "patch", "expected"),
    [
        ((224, 224), 0.5625, (14, 14), (126, 126)),  # nine of sixteen patches
        ((224, 224), 0.5, (16, 16), (112, 112)),
        ((64, 96), 0.5, (16, 16), (32, 48)),
        ((60, 100), 0.75, (10, 20), (40, 80)),  # 4.5 patches are four: halves go to the even number
        ((64, 64), 0.01, (16, 16), (16, 16)),
        ((70, 70), 0.9, (16, 16), (64, 64)),  # 3.9 patches: what does not fill a patch shrinks as well
    ],
)
def test_images_shrink_to_whole_patches(size, share, patch, expected):
    images = torch.rand(2, 3, *size)
    found = shrunk(images, share, patch)
    assert found.shape == (2, 3, *expected)
    torch.testing.assert_close(found.mean(), images.mean(), atol=0.01, rtol=0)
    assert shrunk(images.bfloat16(), share, patch).dtype == torch.bfloat16


def test_nothing_shrinks_to_its_own_size():
    images = torch.rand(2, 3, 64, 64)
    assert shrunk(images, 1.0, (16, 16)) is images and shrunk(images, 0.99, (16, 16)) is images


@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_timm_network_sees_what_a_dynamic_one_would(family):
    net, adapter, images = families.make(family)
    name, options = families.FAMILIES[family]
    dynamic = timm.create_model(name, pretrained=False, dynamic_img_size=True, **{**families.SMALL, **options}).eval()
    dynamic.load_state_dict(net.state_dict())
    unpruned, before = net(images), hf_families.footprint(net)
    expected = dynamic(smaller(images, images.shape[-1] // 2))
    with adapter(net).pruned(Plan(resize=0.5)) as run:
        torch.testing.assert_close(net(images), expected, atol=2e-6, rtol=0)
        assert run.tokens_per_layer == [adapter(net).prefix + 4] * 4
        assert run.tokens_at_entry == adapter(net).prefix + 16
    with adapter(dynamic).pruned(Plan({"vision": TOME})) as run:
        expected, tokens = dynamic(smaller(images, images.shape[-1] // 2)), run.tokens_per_layer
    with adapter(net).pruned(Plan({"vision": TOME}, resize=0.5)) as run:
        torch.testing.assert_close(net(images), expected, atol=2e-6, rtol=0)
        assert run.tokens_per_layer == tokens and run.current.grid == (2, 2)
    hf_families.assert_same_footprint(before, hf_families.footprint(net))
    assert torch.equal(net(images), unpruned)


@pytest.mark.parametrize("family", hf_families.FAMILIES)
def test_a_tower_of_transformers_sees_what_it_would_with_interpolated_positions(family):
    net, images = hf_families.make(family)
    unpruned, before = net(images)[0], hf_families.footprint(net)
    told = {} if family in ("dinov2", "registers") else {"interpolate_pos_encoding": True}
    expected = net(smaller(images, 16), **told)[0]
    with HFVision(net).pruned(Plan(resize=0.5)) as run:
        torch.testing.assert_close(net(pixel_values=images)[0], expected, atol=2e-6, rtol=0)
        assert run.tokens_per_layer == [hf_families.PREFIX[family] + 16] * 4
    with HFVision(net).pruned(Plan({"vision": TOME}, resize=0.5)) as run:
        net(images)
        assert run.current.grid == (4, 4) and run.current.patches_at_entry == 16
    hf_families.assert_same_footprint(before, hf_families.footprint(net))
    assert torch.equal(net(images)[0], unpruned)


def classifier():
    net, images = hf_families.classifier()
    return net, HFVision, images


def whole(net, images):
    output = net(images)
    return getattr(output, "logits", output)


@pytest.mark.parametrize("make", [lambda: families.make("dinov2"), classifier], ids=["timm", "transformers"])
def test_the_unsure_are_seen_whole(make):
    net, adapter, images = make()
    images = torch.cat([images, -images])
    stages = {"vision": Stage("vision", "::2", Ward(), Schedule(drop=0.8), spread=True)}
    unpruned, cost = whole(net, images), count_flops(net, images)[0]
    with adapter(net).pruned(Plan(stages, resize=0.5)) as run:
        glance, first, tokens = whole(net, images), count_flops(net, images)[0], run.tokens_per_layer
    margin = margins(glance).median().item() + 1e-6
    with adapter(net).pruned(Plan(stages, resize=0.5, defer=margin)) as run:
        found = whole(net, images)
        deferred = run.deferred
        assert 0 < deferred.sum() < len(images)
        torch.testing.assert_close(found, torch.where(deferred[:, None], unpruned, glance), atol=2e-6, rtol=0)
        again = deferred.double().mean().item() * run.tokens_at_entry
        assert run.tokens_per_layer == pytest.approx([layer + again for layer in tokens])
        assert count_flops(net, images)[0] == pytest.approx(first + deferred.double().mean().item() * cost)
        torch.testing.assert_close(whole(net, images), found)


def test_gradients_reach_the_pixels():
    net, adapter, images = families.make("vit")
    images = images.clone().requires_grad_()
    with adapter(net).pruned(Plan(resize=0.5)):
        net(images).square().sum().backward()
    assert (images.grad.flatten(1).norm(dim=1) > 0).all()


def test_in_one_call():
    net, _, images = families.make("vit")
    with prune(net, "tome", resize=0.5, drop=0.5) as pruned:
        net(images)
        assert "resize: 0.5" in repr(pruned) and pruned.tokens_per_layer[0] <= 5
    with prune(net, "downsample", flops=0.5, images=images) as pruned:
        assert pruned.calibrated.knob == "resize" and pruned.calibrated.measured.flops <= 0.5
        assert pruned.plan.resize == pruned.calibrated.value < 1
    with prune(net, "glance", agreement=0.9, images=images) as pruned:
        assert pruned.calibrated.knob == "defer" and pruned.calibrated.measured.agreement >= 0.9
    with pytest.raises(SaintpruneError, match="schedule: the plan has no stage"):
        prune(net, "downsample", drop=0.5)
    with pytest.raises(SaintpruneError, match=r"resize is 1\.5, but must be a share"):
        prune(net, "tome", resize=1.5)


def test_only_towers_that_take_other_sizes_resize():
    hybrid = timm.create_model("vit_tiny_r_s16_p8_224", pretrained=False, depth=2)
    with pytest.raises(NotForThisModelError, match="takes images of one size alone: leave resize out"):
        prune(hybrid, "downsample")
    import vlm_families

    model = vlm_families.build("llava")
    with pytest.raises(NotForThisModelError, match="a place in its prompt for every token of an image"):
        VLM(model).check(Plan(resize=0.5))
    decoder, nothing = HFDecoder(model.model.language_model), torch.zeros(1, 4, dtype=torch.bool)
    with (
        pytest.raises(NotForThisModelError, match="is a decoder alone"),
        decoder.pruned(Plan(resize=0.5), visual=nothing),
    ):
        pass


@pytest.mark.parametrize("share", [0, -0.5, 1.01, float("nan")])
def test_a_share_of_a_side(share):
    with pytest.raises(ValueError, match="resize is"):
        Plan(resize=share)
