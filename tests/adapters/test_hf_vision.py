"""Every Hugging Face tower: untouched when nothing is pruned, right when something is, given back as it was."""

import pytest
import timm
import torch
import transformers
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_families import (
    FAMILIES,
    NAMES,
    PATCHES,
    PREFIX,
    SMALL,
    assert_same_footprint,
    by_hand,
    footprint,
    make,
    mean_query_row,
)
from saintprune import HFVision
from saintprune.errors import SaintpruneError
from saintprune.plan import IDENTITY, Plan, Schedule, Stage
from saintprune.reduction.baselines import KeepAll, RandomDrop, TopKAttention
from saintprune.reduction.saint import Saint
from saintprune.reduction.tome import ToMe

RAGGED = Plan.vision(Saint(0.7, min_neighbours=1, vote="sample"), [1, 2])
every_family = pytest.mark.parametrize("family", FAMILIES)
both = pytest.mark.parametrize("attention", ["eager", "sdpa"])


def recording(method):
    """Return a method that answers as another does, and the dictionary of its states and answers by block."""
    seen = {}

    class Recording(type(method)):
        def select(self, state):
            reduction = super().select(state)
            seen[state.layer] = state, reduction, state.importance() if "importance" in self.reads else None
            return reduction

    recorder = object.__new__(Recording)
    recorder.__dict__.update(vars(method))
    return recorder, seen


def outputs(net, images, **given):
    """Return last_hidden_state, pooler_output and all hidden states."""
    out = net(pixel_values=images, output_hidden_states=True, **given)
    return [out.last_hidden_state, out.pooler_output, *out.hidden_states]


def assert_rows(padded, rows, **tolerance):
    """Compare [B, N, D], padded at the ends, with a list of [N_i, D]."""
    for together, alone in zip(padded, rows, strict=True):
        torch.testing.assert_close(together[: len(alone)], alone, **tolerance)


@every_family
@both
def test_identity_is_bit_exact_and_the_network_comes_back(family, attention):
    net, images = make(family, attention)
    expected = outputs(net, images)  # the library installs its hooks for hidden states now, and keeps them
    before = footprint(net)
    with HFVision(net).pruned(IDENTITY) as run:
        found = outputs(net, images)
    assert len(found) == 7 and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert run.tokens_per_layer == [PATCHES + PREFIX[family]] * 4
    for plan in (RAGGED, Plan.vision(ToMe(3))):
        with HFVision(net, pool="sizes").pruned(plan):
            found = outputs(net, images)
        assert not torch.equal(found[1], expected[1])
        assert_same_footprint(before, footprint(net))
    assert all(torch.equal(a, b) for a, b in zip(outputs(net, images), expected, strict=True))


@every_family
def test_an_exception_inside_gives_the_network_back(family):
    net, images = make(family)
    before = footprint(net)

    class Broken(Saint):
        def select(self, state):
            raise RuntimeError("broken method")

    with pytest.raises(RuntimeError, match="broken method"), HFVision(net).pruned(Plan.vision(Broken())):
        net(images)
    assert_same_footprint(before, footprint(net))


@every_family
@both
def test_a_schedule_leaves_these_tokens_and_the_others_have_no_influence(family, attention):
    net, images = make(family, attention)
    method, seen = recording(RandomDrop())
    plan = Plan.vision(method, [1, 2], schedule=Schedule(keep=(20, 9)))
    with HFVision(net).pruned(plan) as run:
        last, pooled, *hidden = outputs(net, images)
    prefix = PREFIX[family]
    assert [state.shape[1] - prefix for state in hidden] == [64, 64, 20, 9, 9]
    assert run.tokens_per_layer == [64 + prefix, 20 + prefix, 9 + prefix, 9 + prefix]
    assert [(event.layer, event.tokens_after) for event in run.events] == [(1, 20 + prefix), (2, 9 + prefix)]
    expected = by_hand(family, net, images, {layer: reduction for layer, (_, reduction, _) in seen.items()})
    torch.testing.assert_close(last, torch.stack(expected.last), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pooled, torch.stack(expected.pooled), atol=1e-5, rtol=1e-5)
    for layer, state in enumerate(hidden):  # hidden_states[-2], which LLaVA reads, holds the survivors
        torch.testing.assert_close(state, torch.stack([row[layer] for row in expected.hidden]), atol=1e-5, rtol=1e-5)


@every_family
@both
def test_ragged_batch_equals_its_rows(family, attention):
    net, images = make(family, attention)
    with HFVision(net).pruned(RAGGED) as run:
        last, pooled, *hidden = outputs(net, images)
        lengths = run.stream.lengths()
    assert torch.is_tensor(lengths) and len(set(lengths.tolist())) > 1
    assert last.shape[1] == lengths.max()
    for row, length in enumerate(lengths.tolist()):
        with HFVision(net).pruned(RAGGED):
            alone = outputs(net, images[row : row + 1])
        assert alone[0].shape[1] == length
        together = [last[row : row + 1], pooled[row : row + 1], *(state[row : row + 1] for state in hidden)]
        for padded, expected in zip(together, alone, strict=True):
            if padded.ndim == 3:
                padded = padded[:, : expected.shape[1]]
            torch.testing.assert_close(padded, expected, atol=1e-5, rtol=0)


@every_family
@both
def test_merging_equals_its_forward_by_hand(family, attention):
    net, images = make(family, attention)
    finals = []
    for proportional in (True, False):
        method, seen = recording(ToMe(15))
        plan = Plan.vision(method, [0, 2], proportional_attention=proportional)
        with HFVision(net, pool="sizes").pruned(plan) as run:
            last, pooled, *hidden = outputs(net, images)
        reductions = {layer: reduction for layer, (_, reduction, _) in seen.items()}
        expected = by_hand(family, net, images, reductions, proportional, by_size=True)
        assert run.tokens_per_layer[-1] == PATCHES + PREFIX[family] - 30 and run.stream.sizes.max() > 2
        torch.testing.assert_close(last, torch.stack(expected.last), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(pooled, torch.stack(expected.pooled), atol=1e-5, rtol=1e-5)
        for layer, state in enumerate(hidden):
            torch.testing.assert_close(
                state, torch.stack([row[layer] for row in expected.hidden]), atol=1e-5, rtol=1e-5
            )
        finals.append(last)
    assert not torch.allclose(*finals, atol=1e-3)


@every_family
@both
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_decides_in_float32(family, attention, autocast):
    net, images = make(family, attention)
    if not autocast:
        net, images = net.bfloat16(), images.bfloat16()
    for method in (Saint(0.7, min_neighbours=1, vote="sample"), ToMe(10)):
        method, seen = recording(method)
        with (
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
            HFVision(net, pool="sizes").pruned(Plan.vision(method, [0, 1])),
        ):
            out = net(images)
        assert all(state.keys.dtype == torch.float32 for state, _, _ in seen.values())
        assert out.pooler_output.isfinite().all()


def test_sizes_can_weigh_the_pooling_head_of_siglip():
    net, images = make("siglip")
    found = []
    for pool in ("survivors", "sizes"):
        with HFVision(net, pool=pool).pruned(Plan.vision(ToMe(20), [3])):
            found.append(net(images).pooler_output)
    assert not torch.allclose(*found, atol=1e-3)


@every_family
def test_importance_is_the_attention_row(family):
    net, images = make(family, "eager")
    attentions = net(images, output_attentions=True).attentions
    method, seen = recording(TopKAttention())
    with HFVision(net).pruned(Plan.vision(method, [1, 2], schedule=Schedule(keep=(30, 10)))):
        pruned = net(images, output_attentions=True).attentions
    assert seen[2][2].shape == (3, 30 + PREFIX[family])
    if family == "siglip":
        hidden = net(images, output_hidden_states=True).hidden_states[1]
        torch.testing.assert_close(seen[1][2], mean_query_row(net.encoder.layers[1], hidden))
        return
    torch.testing.assert_close(seen[1][2], attentions[1].mean(1)[:, 0])
    torch.testing.assert_close(seen[2][2], pruned[2].mean(1)[:, 0])


@every_family
def test_keys_are_the_mean_over_heads(family):
    net, images = make(family)
    method, seen = recording(Saint())
    caught = {}
    getattr(HFVision(net).blocks[1], NAMES[family][1]).k_proj.register_forward_hook(
        lambda module, args, output: caught.update(keys=output)
    )
    with HFVision(net).pruned(Plan.vision(method, [1])):
        net(images)
    state = seen[1][0]
    torch.testing.assert_close(state.keys, caught["keys"].unflatten(-1, (4, 8)).mean(2))
    assert state.grid == (8, 8) and state.prefix == PREFIX[family]


@every_family
def test_special_tokens_survive(family):
    net, images = make(family)
    prefix = PREFIX[family]
    for method, schedule in (
        (Saint(0.0, min_neighbours=1), None),
        (TopKAttention(), Schedule(keep=(1,))),
        (ToMe(60), None),
    ):
        method, seen = recording(method)
        with HFVision(net).pruned(Plan.vision(method, [1], schedule=schedule)):
            last = net(images).last_hidden_state
        assert torch.equal(seen[1][1].keep[:, :prefix], torch.arange(prefix).expand(3, prefix))
        assert prefix < last.shape[1] < 64


@both
def test_every_implementation_that_takes_padding_gets_its_mask(attention, monkeypatch):
    """Flash attention takes [B, N] of 0 and 1; a stand-in that unpads as it does shows that this is what it gets."""
    net, images = make("clip", attention)
    with HFVision(net).pruned(RAGGED) as run:
        expected = net(images)
        lengths = run.stream.lengths().tolist()
    masks = []

    def unpadding(module, query, key, value, attention_mask, scaling, **kwargs):
        masks.append(attention_mask)
        out = query.new_zeros(query.shape)
        for row in range(len(query)):
            real = slice(None) if attention_mask is None else attention_mask[row].bool()
            q, k, v = (given[row][:, real] for given in (query, key, value))
            out[row][:, real] = (q @ k.mT * scaling).softmax(-1) @ v
        return out.transpose(1, 2), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "unpadding", unpadding)
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, "unpadding", flash_attention_mask)
    net.set_attn_implementation("unpadding")
    with HFVision(net).pruned(RAGGED):
        found = net(images)
    assert [None if mask is None else mask.ndim for mask in masks[:4]] == [None, None, 2, 2]
    assert_rows(found.last_hidden_state, [row[:n] for row, n in zip(expected.last_hidden_state, lengths, strict=True)])
    with (
        pytest.raises(SaintpruneError, match=r"'unpadding' takes no bias.*proportional_attention=false"),
        HFVision(net).pruned(Plan.vision(ToMe(3))),
    ):
        net(images)
    with HFVision(net).pruned(Plan.vision(ToMe(3), proportional_attention=False)):
        net(images)
    net.set_attn_implementation(attention)
    with HFVision(net).pruned(Plan.vision(ToMe(3))):
        net.set_attn_implementation("unpadding")  # too late to be refused at the door
        with pytest.raises(SaintpruneError, match="'unpadding' takes no bias"):
            net(images)


def test_interpolated_positions_have_their_own_grid():
    net, images = make("clip")
    method, seen = recording(KeepAll())
    with HFVision(net).pruned(Plan.vision(method, [1])):
        net(torch.zeros(2, 3, 48, 34), interpolate_pos_encoding=True)
        assert seen[1][0].grid == (12, 8)
        net(images)
        assert seen[1][0].grid == (8, 8)


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["dinov2", "vit"])
@both
def test_masks_from_outside_are_refused(family, attention):
    net, images = make(family, attention)
    expected = net(images).last_hidden_state
    mask = torch.ones(3, PATCHES + 1, dtype=torch.long)
    with HFVision(net).pruned(IDENTITY):
        assert torch.equal(net(images, attention_mask=mask).last_hidden_state, expected)
        mask[1, 7] = 0
        with pytest.raises(SaintpruneError, match="does not support an attention_mask"):
            net(images, attention_mask=mask)


def test_gradient_checkpointing_is_refused_in_training():
    net, images = make("clip")
    net.activation_checkpointing_enable()
    with HFVision(net).pruned(RAGGED):
        net(images)
    net.train()
    with pytest.raises(SaintpruneError, match="gradient checkpointing"), HFVision(net).pruned(RAGGED):
        pass


def test_gradients_flow_in_training():
    net, images = make("vit")
    net.train().requires_grad_(True)
    with HFVision(net).pruned(RAGGED):
        net(images).pooler_output.sum().backward()
    assert net.layers[0].attention.k_proj.weight.grad is not None


@pytest.mark.parametrize("implementation", ["flash_attention_2", "flex_attention"])
def test_proportional_attention_needs_a_bias(implementation):
    net, _ = make("clip")
    before = footprint(net)
    net.config._attn_implementation_internal = implementation
    with pytest.raises(SaintpruneError, match=f"'{implementation}' takes no bias"):  # noqa: SIM117
        with HFVision(net).pruned(Plan.vision(ToMe(3))):
            pass
    assert_same_footprint(before, footprint(net))


def test_padding_without_a_known_mask_is_refused(monkeypatch):
    net, images = make("clip")
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "unmasked", ALL_ATTENTION_FUNCTIONS["sdpa"])
    net.config._attn_implementation_internal = "unmasked"
    with (
        HFVision(net).pruned(RAGGED),
        pytest.raises(SaintpruneError, match="no mask for attn_implementation='unmasked'"),
    ):
        net(images)


def wrapped(kind, config, inner=None):
    config = config(**SMALL, **(inner or {}))
    return getattr(transformers, kind)(config).eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("kind", "config", "tower", "output"),
    [
        ("CLIPVisionModelWithProjection", transformers.CLIPVisionConfig, "vision_model", "image_embeds"),
        ("ViTForImageClassification", transformers.ViTConfig, "vit", "logits"),
    ],
)
def test_heads_that_read_the_class_token_are_unwrapped(kind, config, tower, output):
    net, images = wrapped(kind, config), make("clip")[1]
    expected = net(images)[output]
    adapter = HFVision(net)
    assert adapter.net is getattr(net, tower)
    with adapter.pruned(IDENTITY):
        assert torch.equal(net(images)[output], expected)
    with adapter.pruned(RAGGED):
        assert not torch.equal(net(images)[output], expected)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: torch.nn.Linear(2, 2), "this is a Linear. Supported: CLIPVisionModel, SiglipVisionModel, Dinov2Model"),
        (lambda: timm.create_model("vit_tiny_patch16_224", depth=1), "VisionTransformer.*TimmViT, TimmEva"),
        (lambda: wrapped("Dinov2ForImageClassification", transformers.Dinov2Config), "give the tower"),
        (lambda: type("MyViT", (transformers.ViTModel,), {})(transformers.ViTConfig(**SMALL)), "this is a MyViT"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(build, message):
    with pytest.raises(SaintpruneError, match=message):
        HFVision(build())


def test_layers_of_another_kind_are_named():
    net = make("vit")[0]
    net.layers[2] = make("dinov2")[0].encoder.layer[0]
    with pytest.raises(SaintpruneError, match="block 2 is a Dinov2Layer, but HFVision supports ViTLayer here"):
        HFVision(net)


def test_a_plan_for_a_language_model_is_refused():
    net = make("vit")[0]
    plan = Plan({"llm": Stage("language", "all", Saint())})
    with pytest.raises(SaintpruneError, match="site is 'language', but ViTModel"), HFVision(net).pruned(plan):
        pass
