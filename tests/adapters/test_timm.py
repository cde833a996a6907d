"""Every supported family: untouched when nothing is pruned, right when something is, given back as it was."""

from threading import Thread
from types import SimpleNamespace

import pytest
import timm
import torch

from families import EVA, FAMILIES, VIT, make
from saintprune.adapters.timm_eva import TimmEva
from saintprune.adapters.timm_vit import TimmViT
from saintprune.errors import SaintpruneError
from saintprune.plan import IDENTITY, Plan, Schedule, Stage
from saintprune.reduction.baselines import RandomDrop, TopKAttention
from saintprune.reduction.saint import Saint
from saintprune.reduction.tome import ToMe

RAGGED = Plan.vision(Saint(0.3, min_neighbours=1, vote="sample"), "all")
every_family = pytest.mark.parametrize("family", FAMILIES)


def footprint(net):
    """All that pruning could leave behind: weights, attributes, hooks."""
    modules = [(name, module, set(module.__dict__)) for name, module in net.named_modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for _, module, _ in modules]
    return {k: v.clone() for k, v in net.state_dict().items()}, [(n, sorted(a)) for n, _, a in modules], hooks


def assert_same_footprint(before, after):
    assert all(torch.equal(before[0][key], after[0][key]) for key in before[0])
    assert before[1:] == after[1:]


@every_family
def test_identity_is_bit_exact_and_the_network_comes_back(family):
    net, adapter, images = make(family)
    expected, before = net(images), footprint(net)
    with adapter(net).pruned(IDENTITY) as run:
        assert torch.equal(net(images), expected)
        assert run.tokens_per_layer == [run.tokens_at_entry] * 4
    assert_same_footprint(before, footprint(net))
    with adapter(net).pruned(RAGGED):
        assert not torch.equal(net(images), expected)
    assert_same_footprint(before, footprint(net))
    assert torch.equal(net(images), expected)


@every_family
def test_ragged_batch_equals_its_rows(family):
    net, adapter, images = make(family)
    with adapter(net).pruned(RAGGED) as run:
        together = net(images)
        lengths = run.stream.lengths()
    with adapter(net).pruned(RAGGED):
        alone = torch.cat([net(images[row : row + 1]) for row in range(len(images))])
    torch.testing.assert_close(together, alone, atol=2e-6, rtol=0)
    if family in ("vit", "dinov3", "siglip", "mae_global_pool"):  # the seeds of these do give different lengths
        assert torch.is_tensor(lengths) and len(set(lengths.tolist())) > 1


@every_family
def test_removed_tokens_have_no_influence(family):
    """A slow oracle: hide the dropped patches from attention and pooling instead of removing them."""
    net, adapter, images = make(family)
    plan = Plan.vision(Saint(0.3, min_neighbours=1), [1, 2])
    with adapter(net).pruned(plan, recorded=True) as run:
        pruned = net(images)
        before, after = run.events[0].tokens_before, run.events[-1].tokens_after
    assert after < before
    with HidingAdapter.of(adapter)(net).pruned(plan):
        hidden = net(images)
    torch.testing.assert_close(pruned, hidden, atol=2e-6, rtol=0)


class HidingAdapter:
    """Makes of an adapter one that pads instead of removing: dropped tokens stay, marked as invalid."""

    @staticmethod
    def of(adapter):
        class Hiding(adapter):
            def _forward(self, block, layer, step, observed, run, begins):
                if step is None:
                    return super()._forward(block, layer, step, observed, run, begins)
                step = type(step)(step.name, replace_method(step.stage), step.number, step.total)
                return super()._forward(block, layer, step, observed, run, begins)

        return Hiding


def replace_method(stage):
    from dataclasses import replace

    return replace(stage, method=PadDropped(stage.method))


class PadDropped(Saint):
    """Selects as the inner method would on the valid tokens alone, then moves the dropped to the end as padding."""

    def __init__(self, inner):
        object.__setattr__(self, "inner", inner)

    def select(self, state):
        from saintprune.reduction import LayerState, Reduction

        rows = []
        for row in range(len(state.keys)):
            valid = torch.ones(state.keys.shape[1], dtype=torch.bool) if state.valid is None else state.valid[row]
            rows.append(valid.nonzero()[:, 0])
        alone = torch.stack([state.keys[row, index] for row, index in enumerate(rows)])
        kept = self.inner.select(LayerState(keys=alone, prefix=state.prefix)).keep
        order, lengths = [], []
        for row, index in enumerate(rows):
            keep = index[kept[row]]
            rest = [i for i in range(state.keys.shape[1]) if i not in set(keep.tolist())]
            order.append(torch.cat([keep, torch.tensor(rest, dtype=torch.long)]))
            lengths.append(len(keep))
        place = torch.arange(state.keys.shape[1])
        return Reduction(torch.stack(order), torch.stack([place < length for length in lengths]))


@every_family
def test_merging_identical_patches_changes_nothing(family):
    """With equal patches and proportional attention, ToMe is exact: the oracle is the unpruned network."""
    net, adapter, images = make(family)
    images = images[:, :, :1, :1].expand_as(images).contiguous()
    if net.pos_embed is not None:
        patches = net.pos_embed[:, net.pos_embed.shape[1] - net.patch_embed.num_patches :]
        patches.copy_(patches[:, :1].expand_as(patches))
    expected = net(images)
    with adapter(net, pool="sizes").pruned(Plan.vision(ToMe(3), [0, 2])) as run:
        merged = net(images)
    assert run.events[-1].tokens_after == run.tokens_at_entry - 6
    if family in EVA and family not in ("eva",):  # rotary positions tell equal patches apart
        return
    torch.testing.assert_close(merged, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("family", ["vit", "siglip", "dinov3"])
def test_importance_is_the_attention_row(family):
    net, adapter, images = make(family)
    seen = {}
    attn = net.blocks[1].attn
    attn.fused_attn = False
    attn.attn_drop.register_forward_hook(lambda module, args, output: seen.update(attention=output))

    class Spy(TopKAttention):
        def select(self, state):
            seen["importance"] = state.importance()
            return super().select(state)

    with adapter(net).pruned(Plan.vision(Spy(), [1], schedule=Schedule(drop=0.5))):
        net(images)
    if family == "vit":  # pre-RoPE rows are not what a RoPE network attends with; without CLS the row is a mean query
        torch.testing.assert_close(seen["importance"], seen["attention"].mean(1)[:, 0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(seen["importance"].sum(1), torch.ones(3))


@pytest.mark.parametrize("family", ["vit", "eva02"])
def test_keys_are_the_mean_over_heads(family):
    net, adapter, images = make(family)
    seen = {}

    class Spy(Saint):
        def select(self, state):
            seen.update(keys=state.keys, tokens=state.tokens)
            return super().select(state)

    net.blocks[1].attn.k_norm.register_forward_hook(lambda module, args, output: seen.update(heads=output))
    with adapter(net).pruned(Plan.vision(Spy(), [1])):
        net(images)
    torch.testing.assert_close(seen["keys"], sum(seen["heads"].unbind(1)) / 4)
    assert seen["keys"].dtype == torch.float32


def test_rope_moves_with_its_patches():
    net, adapter, images = make("dinov3")
    ropes = []
    net.blocks[2].attn.register_forward_hook(
        lambda module, args, kwargs, output: ropes.append(kwargs["rope"]), with_kwargs=True
    )
    net(images)
    with adapter(net).pruned(Plan.vision(RandomDrop(), [1], schedule=Schedule(keep=(5,)))) as run:
        net(images)
    full, kept = ropes
    for row, positions in enumerate(run.stream.positions):
        torch.testing.assert_close(kept[row, 0], full[positions])


def test_an_exception_inside_gives_the_network_back():
    net, adapter, images = make("vit")
    before = footprint(net)

    class Broken(Saint):
        def select(self, state):
            raise RuntimeError("broken method")

    with pytest.raises(RuntimeError, match="broken method"), adapter(net).pruned(Plan.vision(Broken())):
        net(images)
    assert_same_footprint(before, footprint(net))


def test_own_forward_of_a_block_comes_back():
    """Other libraries set `forward` on instances too; theirs must be there afterwards."""
    net, adapter, images = make("vit")
    mine = net.blocks[0].forward
    net.blocks[0].forward = mine
    with adapter(net).pruned(RAGGED):
        net(images)
    assert net.blocks[0].__dict__["forward"] is mine


def test_pruning_twice_is_an_error():
    net, adapter, images = make("vit")
    expected = net(images)
    with (
        pytest.raises(SaintpruneError, match="being pruned already"),
        adapter(net).pruned(IDENTITY),
        TimmViT(net).pruned(IDENTITY),
    ):
        pass
    assert torch.equal(net(images), expected)


def test_bf16_decides_in_float32():
    net, adapter, images = make("vit")
    net, images = net.bfloat16(), images.bfloat16()
    seen = {}

    class Spy(Saint):
        def select(self, state):
            seen["dtype"] = state.keys.dtype
            return super().select(state)

    with adapter(net).pruned(Plan.vision(Spy(0.3, min_neighbours=1, vote="sample"), "all")):
        assert net(images).dtype == torch.bfloat16
    assert seen["dtype"] == torch.float32


def test_autocast_leaves_decisions_in_float32():
    net, adapter, images = make("vit")
    seen = []

    class Spy(Saint):
        def select(self, state):
            seen.append((state.keys @ state.keys.mT).dtype)
            return super().select(state)

    with torch.autocast("cpu", dtype=torch.bfloat16), adapter(net).pruned(Plan.vision(Spy())):
        net(images)
    assert set(seen) == {torch.float32}


def test_events_tell_tokens_and_seconds():
    net, adapter, images = make("vit")
    with adapter(net).pruned(Plan.vision(ToMe(2), [0, 3]), timed=True) as run:
        net(images)
        net(images)
    assert [(event.layer, event.tokens_before, event.tokens_after) for event in run.events] == [
        (0, 17, 15),
        (3, 15, 13),
    ]
    assert all(event.seconds > 0 for event in run.events)
    assert run.tokens_per_layer == [15, 15, 15, 13]


def test_sizes_can_weigh_a_global_pool():
    net, adapter, images = make("mae_global_pool")
    outputs = []
    for pool in ("survivors", "sizes"):
        with adapter(net, pool=pool).pruned(Plan.vision(ToMe(5), [3])):
            outputs.append(net(images))
    assert not torch.allclose(*outputs, atol=1e-4)


def test_proportional_attention_is_a_choice():
    net, adapter, images = make("vit")
    outputs = []
    for proportional in (True, False):
        with adapter(net).pruned(Plan.vision(ToMe(5), [0], proportional_attention=proportional)):
            outputs.append(net(images))
    assert not torch.allclose(*outputs, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TimmViT(timm.create_model("resnet10t")), "TimmViT prunes timm's VisionTransformer.*ResNet.*Supported"),
        (lambda: TimmViT(make("dinov3")[0]), "TimmEva"),
        (lambda: TimmEva(make("vit")[0]), "TimmViT"),
        (lambda: TimmViT(make("vit")[0], pool="mean"), "pool is 'mean'"),
        (
            lambda: TimmViT(timm.create_model(["vit_base_patch16_plus_clip_240", "laion400m_e31"][0], depth=1,
                            block_fn=timm.models.vision_transformer.ParallelScalingBlock)),
            "block 0 is a ParallelScalingBlock, but TimmViT supports Block, ResPostBlock only",
        ),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(build, message):
    with pytest.raises((SaintpruneError, ValueError), match=message):
        build()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan.vision(Saint(), [14]), r"stages.vision.layers has 14, but the network has 4 blocks \(0..3\)"),
        (Plan({"llm": Stage("language", "all", Saint())}), "site is 'language'"),
        (
            Plan({"a": Stage("vision", [1], Saint()), "b": Stage("vision", [1], ToMe())}),
            "'a' and 'b' both prune layer 1",
        ),
        (Plan.vision(RandomDrop(), [0, 1], schedule=Schedule(keep=(9,))), "has 1 entries.*2 of 4 blocks"),
        (Plan.vision(Saint(), "3:9"), "'3:9', but the network has 4 blocks"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(plan, message):
    net, adapter, _ = make("vit")
    before = footprint(net)
    with pytest.raises(SaintpruneError, match=message), adapter(net).pruned(plan):
        pass
    assert_same_footprint(before, footprint(net))


def test_masks_from_outside_are_refused():
    net, adapter, images = make("vit")
    with adapter(net).pruned(IDENTITY), pytest.raises(SaintpruneError, match="attn_mask"):
        net(images, attn_mask=torch.ones(17, 17, dtype=torch.bool))


@pytest.mark.parametrize("family", ["vit", "dinov3"])
@pytest.mark.parametrize("plan", [Plan.vision(RandomDrop(), [1], schedule=Schedule(keep=(8,))), Plan(resize=0.5)])
def test_maps_of_a_grid_with_gaps_are_refused(family, plan):
    net, adapter, images = make(family)
    maps, before = net.forward_intermediates(images, intermediates_only=True), footprint(net)
    with adapter(net).pruned(plan) as run:
        with pytest.raises(SaintpruneError, match=r"feature maps need the whole grid .*output_fmt='NLC'"):
            net.forward_intermediates(images)
        tokens = net.forward_intermediates(images, output_fmt="NLC", intermediates_only=True)
        assert tokens[-1].shape[1] == run.stream.tokens - net.num_prefix_tokens
        if family == "vit":
            with pytest.raises(SaintpruneError, match="feature maps"):
                net.get_intermediate_layers(images, reshape=True)
            assert torch.equal(net.get_intermediate_layers(images)[0], tokens[-1])
    assert_same_footprint(before, footprint(net))
    with adapter(net).pruned(IDENTITY):
        again = net.forward_intermediates(images, intermediates_only=True)
    assert all(torch.equal(*pair) for pair in zip(again, maps, strict=True))


def test_another_thread_amid_a_pass_is_told():
    net, adapter, images = make("vit")

    def amid(module, args):
        hook.remove()
        thread = Thread(target=net, args=(images,))
        thread.start()
        thread.join()

    with adapter(net).pruned(RAGGED):
        expected = net(images)
        hook = net.blocks[1].mlp.register_forward_pre_hook(amid)
        with pytest.raises(SaintpruneError, match=r"another thread began a pass .* take turns"):
            net(images)
        assert torch.equal(net(images), expected)


def test_a_network_on_several_devices_is_refused(monkeypatch):
    net, adapter, _ = make("vit")
    weights = [SimpleNamespace(device=torch.device(name)) for name in ("cuda:0", "cpu")]
    monkeypatch.setattr(net, "parameters", lambda: iter(weights))
    with pytest.raises(SaintpruneError, match="lies on cpu, cuda:0, but"), adapter(net).pruned(RAGGED):
        pass


def test_fused_attention_stays_on():
    """Masks and sizes go through scaled_dot_product_attention, not through an attention map."""
    net, adapter, images = make("vit")
    calls = []
    original = torch.nn.functional.scaled_dot_product_attention

    def counted(*args, **kwargs):
        calls.append(kwargs.get("attn_mask"))
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
        for plan in (RAGGED, Plan.vision(ToMe(2), "all")):
            with adapter(net).pruned(plan):
                net(images)
    assert len(calls) == 8 and {None if mask is None else mask.shape[1:3] for mask in calls} == {None, (1, 1)}


assert set(VIT) | set(EVA) == set(FAMILIES)
