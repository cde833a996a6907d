"""What the peer methods of the vision tower have in common: hardly any tokens, bookkeeping, replay in a network."""

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch

import hf_families
import vlm_families
from families import make
from peer_states import groups, layer
from saintprune import HFVision
from saintprune.adapters.sequence import in_order
from saintprune.adapters.vlm import VLM
from saintprune.errors import SaintpruneError
from saintprune.evaluation.benchmark import replayed
from saintprune.evaluation.layer_paths import Depths, follow
from saintprune.plan import Plan, Schedule, Stage
from saintprune.reduction.ats import ATS
from saintprune.reduction.diffrate import DiffRate
from saintprune.reduction.evit import EViT
from saintprune.reduction.pitome import PiToMe
from saintprune.reduction.spvit import SPViT
from saintprune.reduction.tofu import ToFu

METHODS = {
    "tofu": ToFu(r=3, prune_layers=0.25),
    "pitome": PiToMe(0.8),
    "evit": EViT(0.6),
    "evit_drop": EViT(0.6, fuse=False),
    "ats": ATS(0.8),
    "diffrate": DiffRate([0.1] * 4, [0.2] * 4),
    "spvit": SPViT(1.0),
}
every_method = pytest.mark.parametrize("name", METHODS)


@every_method
@pytest.mark.parametrize("budget", [None, 1, 2, 9])
@pytest.mark.parametrize(("tokens", "prefix"), [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1), (5, 5), (6, 5), (8, 5)])
def test_hardly_any_tokens(name, tokens, prefix, budget):
    for depth_layer in (0, 3):
        state = layer(tokens, prefix, budget=budget, layer=depth_layer, depth=4)
        reduction = METHODS[name].select(state)
        assert reduction.keep[:, :prefix].tolist() == [list(range(prefix))] * 3
        assert reduction.apply(state.tokens, state.sizes).isfinite().all()
        assert reduction.keep.shape[1] > prefix or tokens == prefix, "one patch stays"
        if budget is not None:
            least = (tokens - prefix + 1) // 2 if name in ("tofu", "pitome") else 1
            assert reduction.keep.shape[1] - prefix == min(max(budget, least), tokens - prefix)


@every_method
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_equal_patches_and_special_tokens(name, prefix):
    """All ties: nothing breaks, and special tokens stay as they are."""
    state = layer(21, prefix, depth=4, layer=3)
    even = torch.full((3, 4, 21), 1 / 21)
    state = replace(
        state, keys=torch.ones(3, 21, 6), attention=lambda: even[:, 0], head_attention=lambda: even, values=lambda: even
    )
    reduction = METHODS[name].select(state)
    found = reduction.apply(state.tokens, state.sizes)
    torch.testing.assert_close(found[:, :prefix], state.tokens[:, :prefix])
    for row in range(3):
        assert groups(reduction, row)[:prefix] == [(i, [i]) for i in range(prefix)]


@every_method
@pytest.mark.parametrize("family", ["vit", "siglip", "eva", "eva02", "dinov3", "rope_mixed", "deit_distilled"])
def test_timm_networks_run_and_can_be_replayed(name, family):
    net, adapter, images = make(family)
    plan = Plan.vision(METHODS[name], "all")
    with adapter(net).pruned(plan, recorded=True) as run:
        expected = net(images)
        first = run.events
    assert first[-1].tokens_after < run.tokens_at_entry and expected.isfinite().all()
    with adapter(net).pruned(replayed(plan, first)) as run:
        torch.testing.assert_close(net(images), expected)
    assert [event.tokens_after for event in run.events] == [event.tokens_after for event in first]


@every_method
@pytest.mark.parametrize("family", ["clip", "siglip", "registers", "vit"])
def test_hugging_face_towers_leave_what_the_schedule_says(name, family):
    net, images = hf_families.make(family)
    adapter = HFVision(net)
    plan = Plan.vision(METHODS[name], [0.25, 0.75], schedule=Schedule(keep=(40, 0.5)))
    with adapter.pruned(plan) as run:
        out = net(images).last_hidden_state
    assert [event.layer for event in run.events] == [1, 3] and run.stream.valid is None
    assert out.shape[1] == 32 + adapter.prefix and out.isfinite().all()


@every_method
@pytest.mark.parametrize("family", ["clip", "siglip", "registers"])
@pytest.mark.parametrize("proportional", [True, False])
def test_a_tower_computes_what_loops_compute(name, family, proportional):
    """One image at a time in plain matrix products, given who stays and who joins whom; also where images differ."""
    net, images = hf_families.make(family)
    adapter = HFVision(net, pool="sizes")
    plan = Plan.vision(METHODS[name], [1, 2], proportional_attention=proportional)
    with adapter.pruned(plan, recorded=True) as run:
        out = net(images)
    reductions = {event.layer: event.reductions[0] for event in run.events}
    weighed = proportional and METHODS[name].merges
    expected = hf_families.by_hand(family, net, images, reductions, weighed, by_size=METHODS[name].merges)
    for row in range(3):
        real = slice(None) if run.stream.valid is None else run.stream.valid[row]
        torch.testing.assert_close(out.last_hidden_state[row][real], expected.last[row], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(out.pooler_output[row], expected.pooled[row], atol=1e-5, rtol=1e-4)


@every_method
def test_a_batch_in_a_network_equals_its_rows(name):
    net, adapter, images = make("vit")
    plan = Plan.vision(METHODS[name], "all")
    with adapter(net).pruned(plan):
        together = net(images)
        alone = torch.cat([net(images[row : row + 1]) for row in range(len(images))])
    torch.testing.assert_close(together, alone, atol=2e-6, rtol=0)


@every_method
@pytest.mark.parametrize("family", ["vit", "eva", "eva02"])
def test_low_precision(name, family):
    net, adapter, images = make(family)
    plan = Plan.vision(METHODS[name], "all")
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16), adapter(net).pruned(plan):
        assert net(images).isfinite().all()
    net, images = net.bfloat16(), images.bfloat16()
    with adapter(net).pruned(plan) as run:
        out = net(images)
    assert out.dtype == torch.bfloat16 and out.isfinite().all() and run.events[-1].tokens_after < run.tokens_at_entry


@pytest.mark.parametrize("family", ["vit", "qk_norm", "eva", "eva02", "dinov3", "rope_mixed", "post_norm"])
def test_timm_values_and_heads_are_those_of_attention(family):
    """The values that attention mixes, caught where the kernel gets them."""
    net, adapter, images = make(family)
    found, calls = {}, []
    original = torch.nn.functional.scaled_dot_product_attention

    def spying(query, key, value, **kwargs):
        calls.append(value)
        return original(query, key, value, **kwargs)

    class Spy(ATS):
        def select(self, state):
            found.update(norms=state.value_norms(), heads=state.head_importance(), mean=state.importance())
            return super().select(state)

    with pytest.MonkeyPatch.context() as patch, adapter(net).pruned(Plan.vision(Spy(), [1])):
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", spying)
        net(images)
    torch.testing.assert_close(found["norms"], calls[1].norm(dim=-1))
    torch.testing.assert_close(found["heads"].mean(1), found["mean"])
    torch.testing.assert_close(found["heads"].sum(-1), torch.ones(3, 4))


@pytest.mark.parametrize("family", ["clip", "siglip", "dinov2", "registers", "vit"])
def test_hugging_face_values_and_heads_are_those_of_attention(family):
    net, images = hf_families.make(family, "eager")
    rows = net(images, output_attentions=True).attentions[1]
    before, adapter = hf_families.footprint(net), HFVision(net)
    block = adapter.blocks[1]
    attention, seen = getattr(block, hf_families.NAMES[family][1]), []
    with adapter.pruned(Plan()) as run, ExitStack() as undo:
        undo.callback(attention.v_proj.register_forward_hook(lambda module, args, out: seen.append(out)).remove)
        observed = adapter.observe(undo, run, 1, frozenset({"importance", "values"}))
        net(images)
        torch.testing.assert_close(observed.value_norms(), seen[0].unflatten(-1, (4, 8)).norm(dim=-1).transpose(1, 2))
        if family != "siglip":  # whose row is that of the mean query
            torch.testing.assert_close(observed.head_attention(run.current), rows[:, :, 0])
    hf_families.assert_same_footprint(before, hf_families.footprint(net))


def test_heads_without_padding_are_those_of_ragged_batches():
    net, adapter, images = make("vit")
    found = []

    class Spy(SPViT):
        def select(self, state):
            found.append((state.valid, state.head_importance(), state.value_norms()))
            return super().select(state)

        reads = frozenset({"importance", "values"})

    with adapter(net).pruned(Plan.vision(Spy(0.9), "all")):
        net(images)
        (valid, heads, norms), *_ = found[1:]
        assert valid is not None and (heads.transpose(1, 2)[~valid] == 0).all()
        net(images[1:2])
    real = int(valid[1].sum())
    torch.testing.assert_close(heads[1, :, :real], found[5][1][0], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(norms[1, :, :real], found[5][2][0], atol=1e-6, rtol=1e-4)


def test_proportional_attention_counts_what_was_fused_only_where_it_is_asked_for():
    net, adapter, images = make("vit")
    outputs = []
    for proportional in (True, False):
        with adapter(net).pruned(Plan.vision(EViT(0.5), [0], proportional_attention=proportional)):
            outputs.append(net(images))
    assert not torch.allclose(*outputs, atol=1e-5)


def test_weights_and_norms_outlive_reordering():
    """The decoder puts survivors back in the order of the prompt."""
    state = layer(layer=11)
    reduction = ToFu(r=6).select(state)
    reduction = replace(reduction, weights=torch.rand(3, 23))
    ordered, order = in_order(reduction), reduction.keep.argsort(1)
    expected = reduction.apply(state.tokens).gather(1, order[..., None].expand(-1, -1, 5))
    torch.testing.assert_close(ordered.apply(state.tokens), expected)


def test_a_table_of_another_depth_says_where():
    net, adapter, images = make("vit")
    plan = Plan.vision(DiffRate([0.1] * 12, [0.1] * 12), "all")
    with (
        pytest.raises(SaintpruneError, match=r"stages.vision, block 0: the table .* has 12 entries.* has 4 blocks"),
        adapter(net).pruned(plan),
    ):
        net(images)


@pytest.mark.parametrize("method", [ATS(), SPViT()])
@pytest.mark.parametrize("site", ["projector", "language"])
def test_a_site_that_cannot_tell_heads_apart_says_so(site, method):
    net = vlm_families.build("llava")
    plan = Plan({"one": Stage(site, "all" if site == "projector" else [2], method)})
    with pytest.raises(SaintpruneError, match=r"stages.one, block \d: attention per head.*site=vision"):
        run(net, plan)


def run(net, plan):
    with VLM(net).pruned(plan) as run:
        return net(**vlm_families.inputs("llava", net)).logits, run.events


@pytest.mark.parametrize("site", ["projector", "language"])
def test_what_needs_no_heads_works_at_every_site(site):
    net = vlm_families.build("llava")
    for method in (EViT(), PiToMe(), ToFu(r=4), DiffRate([0.1], [0.4])):
        if site == "language" and isinstance(method, DiffRate):
            method = DiffRate([0.1] * 6, [0.4] * 6)
        logits, events = run(net, Plan({"one": Stage(site, "all" if site == "projector" else [4], method)}))
        assert logits.isfinite().all() and events[0].tokens_after < events[0].tokens_before


@pytest.mark.parametrize("method", [ATS(), SPViT(), EViT()])
def test_the_path_through_a_model_that_is_not_there_is_found(method):
    net = vlm_families.build("llava")
    stage = Stage("vision", [0.25, 0.5], method, Schedule(keep=(12, 5)))
    path = follow(VLM(net), Plan({"vision": stage}), Depths(decoder=2, tower=8), 16)
    assert path.tower == [16, 16, 16, 12, 12, 5, 5, 5, 5] and len(path.selections) == 2
    for selection in path.selections:
        selection.prepare()()
