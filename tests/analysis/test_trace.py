"""The trace of every adapter: right tensors, whatever the batches, in memory that does not grow, network untouched."""

import json
from contextlib import ExitStack

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

import families
import hf_families
from hf_families import assert_same_footprint, footprint
from saintprune.adapters.hf_decoder import HFDecoder
from saintprune.adapters.hf_vision import HFVision
from saintprune.adapters.observed_layer import observe
from saintprune.adapters.vlm import VLM
from saintprune.analysis.curves import Curves
from saintprune.analysis.statistics import cross_statistics, token_statistics
from saintprune.analysis.trace import trace
from saintprune.errors import SaintpruneError
from saintprune.metrics.memory import peak_memory
from saintprune.plan import Plan, Schedule
from saintprune.reduction.baselines import RandomDrop
from vlm_families import IMAGE, VLMS, build, inputs, text

CPU = torch.device("cpu")
PARTS = ["language/vision-vision", "language/text-text", "language/vision-text"]
DECODERS = {"llama": (LlamaForCausalLM, LlamaConfig), "qwen3": (Qwen3ForCausalLM, Qwen3Config)}
THREE = ["vision-vision", "text-text", "vision-text"]


def states_of(blocks, work):
    """What enters and leaves each block, told by plain hooks: lists of (before, after)."""
    seen, handles = [], []
    for block in blocks:
        handles.append(
            block.register_forward_hook(
                lambda _, args, kwargs, output: seen.append((args[0] if args else kwargs["hidden_states"], output)),
                with_kwargs=True,
            )
        )
    result = work()
    for handle in handles:
        handle.remove()
    return seen, result


def assert_curves(curves, expected):
    """Curves equal the statistics of each layer."""
    assert curves.layers == len(expected)
    assert set(curves.values) == set(expected[0].values)
    for layer, found in enumerate(expected):
        for name, value in found.values.items():
            seen, message = curves.values[name][:, layer], f"{name} of layer {layer}"
            torch.testing.assert_close(seen, value.double(), atol=1e-4, rtol=1e-4, equal_nan=True, msg=message)
        for name, counts in found.histograms.items():
            # a cosine may fall on the other side of an edge in its last digit
            assert int((curves.histograms[name][layer] - counts).abs().sum()) <= 8, name


def decoder(name):
    torch.manual_seed(0)
    kind, config = DECODERS[name]
    return kind._from_config(config(**text(**({"head_dim": 8} if name == "qwen3" else {})))).eval()


def prompts(seed=4):
    """Three prompts of 24 tokens, left-padded by 5, 0 and 20."""
    ids = torch.randint(2, 90, (3, 24), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": (torch.arange(24) >= torch.tensor([5, 0, 20])[:, None]).long()}


@pytest.mark.parametrize(
    "family", ["vit", "deit_distilled", "siglip", "dinov2_registers", "qk_norm", "eva02", "dinov3"]
)
def test_timm_networks(family):
    net, adapter, images = families.make(family)
    adapter = adapter(net)
    keys = []
    hooks = [block.attn.k_norm.register_forward_hook(lambda *seen: keys.append(seen[-1])) for block in net.blocks]
    states, _ = states_of(net.blocks, lambda: net(images))
    for hook in hooks:
        hook.remove()
    before = footprint(net)
    (curves,) = trace(adapter, [images], rank_every=1)
    assert_same_footprint(before, footprint(net))
    assert curves.part == "vision" and ("cls_similarity" in curves.values) == (adapter.prefix > 0)
    expected = [
        token_statistics(key.mean(1), after, entered, prefix=adapter.prefix)
        for key, (entered, after) in zip(keys, states, strict=True)
    ]
    attention = {name: curves.values[name] for name in ("attention_entropy", "attention_share")}
    rest = {name: value for name, value in curves.values.items() if name not in attention}
    assert_curves(Curves("vision", curves.layers, rest, curves.histograms, curves.edges), expected)
    assert all(float(value.min()) > 0 and float(value.max()) <= 1 + 1e-6 for value in attention.values())


@pytest.mark.parametrize("family", hf_families.FAMILIES)
def test_towers_of_transformers(family):
    net, images = hf_families.make(family, "eager")
    prefix, layers = hf_families.PREFIX[family], net.get_submodule(hf_families.LAYERS[family])
    norm, attention, _ = hf_families.NAMES[family]
    states, out = states_of(layers, lambda: net(images, output_attentions=True))
    expected = []
    for layer, (entered, after), rows in zip(layers, states, out.attentions, strict=True):
        keys = getattr(layer, attention).k_proj(getattr(layer, norm)(entered)).unflatten(-1, (4, 8)).mean(2)
        row = rows.mean(1)[:, 0] if prefix else hf_families.mean_query_row(layer, entered)
        expected.append(token_statistics(keys, after, entered, prefix=prefix, attention=row))
    before = footprint(net)
    (curves,) = trace(HFVision(net), [(images, torch.zeros(3))], rank_every=1)
    assert_same_footprint(before, footprint(net))
    assert_curves(curves, expected)


def decoder_states(net, layers, batch):
    """Keys after RoPE, (before, after), and the last token's row of attention of each layer of a decoder."""
    states, out = states_of(layers, lambda: net(**batch, output_attentions=True, use_cache=True))
    keys = [layer.keys.mean(1) for layer in out.past_key_values.layers]
    return keys, states, [rows.mean(1)[:, -1] for rows in out.attentions]


def grouped(x, mask):
    """Tokens [B, M, ...] of a mask, after the last token, each prompt's in a loop, and which of them are real."""
    width = max(int(mask.sum(1).max()), 1)
    out = x.new_zeros(len(x), width + 1, *x.shape[2:])
    valid = torch.zeros(len(x), width + 1, dtype=torch.bool)
    for row in range(len(x)):
        chosen = torch.cat([x[row, -1:], x[row, :-1][mask[row, :-1]]])
        out[row, : len(chosen)], valid[row, : len(chosen)] = chosen, True
    return out, valid


def expected_parts(keys, states, rows, visual, real):
    """Statistics of each layer and pair of groups."""
    found = {name: [] for name in THREE}
    others = torch.arange(real.shape[1]) < real.shape[1] - 1
    masks = {"vision-vision": visual & real & others, "text-text": ~visual & real & others}
    for key, (entered, after), row in zip(keys, states, rows, strict=True):
        sets = {}
        for name, mask in masks.items():
            (k, valid), (s, _), (p, _), (r, _) = (grouped(x, mask) for x in (key, after, entered, row))
            found[name].append(token_statistics(k, s, p, prefix=1, valid=valid, attention=r))
            sets[name] = (k[:, 1:], s[:, 1:], valid[:, 1:])
        (vk, vs, vv), (tk, ts, tv) = sets.values()
        found["vision-text"].append(cross_statistics((vk, tk), (vs, ts), valid=(vv, tv)))
    return found


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_read_text(name):
    net = decoder(name)
    batch = prompts()
    net.set_attn_implementation("eager")
    seen = decoder_states(net, net.model.layers, batch)
    real = batch["attention_mask"].bool()
    expected = expected_parts(*seen, torch.zeros_like(real), real)["text-text"]
    net.set_attn_implementation("sdpa")
    before = footprint(net)
    (curves,) = trace(HFDecoder(net), [batch], rank_every=1)
    assert_same_footprint(before, footprint(net))
    assert curves.part == "language/text-text"
    assert_curves(curves, expected)


@pytest.mark.parametrize("name", VLMS)
def test_vision_language_models(name):
    net = build(name, "eager")
    batch = inputs(name, net)
    seen = decoder_states(net, VLM(net).decoder.net.layers, batch)
    visual, real = batch["input_ids"] == IMAGE, batch["attention_mask"].bool()
    expected = expected_parts(*seen, visual, real)
    net.set_attn_implementation("sdpa")
    before = footprint(net)
    found = {curves.part: curves for curves in trace(VLM(net), [batch], rank_every=1)}
    assert_same_footprint(before, footprint(net))
    towers = ["vision"] if name.startswith("llava") else []
    assert list(found) == [*towers, *PARTS]
    for pairs in THREE:
        assert_curves(found[f"language/{pairs}"], expected[pairs])
    assert found["language/vision-vision"].values["key_cosine"].isnan().any(1).tolist() == [False, False, True]
    if towers:
        assert found["vision"].layers == 4 and not found["vision"].values["key_cosine"].isnan().any()


def test_prompts_without_any_image():
    net = build("llava")
    found = trace(VLM(net), [inputs("llava", net, images=(0, 0), padding=(2, 0))])
    assert [curves.part for curves in found] == ["language/text-text"]


def test_batches_do_not_matter():
    net, adapter, _ = families.make("vit")
    images = torch.randn(10, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    done = []
    (whole,) = trace(adapter(net), [images], rank_every=3)
    (parts,) = trace(adapter(net), images.split([1, 4, 3, 2]), rank_every=3, advance=done.append)
    assert done == [1, 5, 8, 10] and parts.images == 10
    for name, value in whole.values.items():
        torch.testing.assert_close(parts.values[name], value, atol=1e-4, rtol=1e-4, equal_nan=True)
    assert not parts.values["effective_rank_states"][::3].isnan().any()
    assert int(parts.values["effective_rank_states"].isnan().all(1).sum()) == 6
    for name, counts in whole.histograms.items():
        assert int((parts.histograms[name] - counts).abs().sum()) <= 16
        assert int(counts.sum(1).min()) == 10 * 16 * 15


def test_prompts_in_batches_of_one():
    net = decoder("llama")
    batch = prompts()
    rows = [{name: value[row : row + 1] for name, value in batch.items()} for row in range(3)]
    (whole,), (parts,) = trace(HFDecoder(net), [batch], rank_every=1), trace(HFDecoder(net), rows, rank_every=1)
    for name, value in whole.values.items():
        torch.testing.assert_close(parts.values[name], value, atol=1e-4, rtol=1e-4, msg=name)


def test_memory_does_not_grow_with_the_images():
    net, adapter, _ = families.make("vit")
    batch = torch.randn(64, 3, 64, 64)

    def peak(images):
        return peak_memory(lambda: trace(adapter(net), [batch] * (images // 64)), CPU) * 2**20

    (curves,) = trace(adapter(net), [batch[:1]])
    few, many = peak(64), peak(256)
    kept = 192 * 4 * curves.layers * len(curves.values)  # bytes: a float32 per image, layer and metric
    assert many - few <= kept + sum(counts.nbytes for counts in curves.histograms.values())
    assert many < few * 1.05


def test_one_layer_is_in_memory_at_a_time():
    shallow, adapter, images = families.make("vit")
    deep = shallow.__class__(img_size=64, patch_size=16, embed_dim=48, num_heads=4, depth=12, num_classes=7).eval()
    peaks = [peak_memory(lambda net=net: trace(adapter(net), [images]), CPU) for net in (shallow, deep)]
    assert peaks[1] < peaks[0] * 1.5, "three times the layers, but not three times the memory"


def test_half_precision_and_autocast():
    net, adapter, images = families.make("vit")
    (exact,) = trace(adapter(net), [images])
    with torch.autocast("cpu", torch.bfloat16):
        (mixed,) = trace(adapter(net), [images])
    (half,) = trace(adapter(net.bfloat16()), [images])
    for found in (mixed, half):
        torch.testing.assert_close(found.values["key_cosine"], exact.values["key_cosine"], atol=0.02, rtol=0)


def test_curves_are_saved_and_loaded(tmp_path):
    net, adapter, images = families.make("vit")
    (curves,) = trace(adapter(net), [images], meta={"model": "tiny", "seed": 0})
    curves.save(tmp_path / "vision")
    again = Curves.load(tmp_path / "vision")
    assert (again.part, again.layers, again.images) == ("vision", 4, 3)
    assert again.meta == {"model": "tiny", "seed": 0, "rank_every": 8}
    assert list(again.values) == list(curves.values) and list(again.histograms) == list(curves.histograms)
    for name, value in curves.values.items():
        torch.testing.assert_close(again.values[name], value, atol=0, rtol=1e-8, equal_nan=True)
    for name, counts in curves.histograms.items():
        assert torch.equal(again.histograms[name], counts)
        torch.testing.assert_close(again.edges[name], curves.edges[name])
    lines = (tmp_path / "vision" / "layers.csv").read_text().splitlines()
    assert len(lines) == 5 and lines[0].startswith("layer,key_cosine,")
    assert len((tmp_path / "vision" / "images.csv").read_text().splitlines()) == 1 + 3 * 4
    assert json.loads((tmp_path / "vision" / "meta.json").read_text())["model"] == "tiny"
    torch.testing.assert_close(again.means()["effective_rank_states"], curves.values["effective_rank_states"][0])


def test_folders_without_curves(tmp_path):
    with pytest.raises(SaintpruneError, match="holds no curves that can be read"):
        Curves.load(tmp_path)
    (tmp_path / "meta.json").write_text('{"part": "vision", "layers": 3, "images": 2}')
    (tmp_path / "images.csv").write_text("image,layer,key_cosine\n0,0,0.5\n")
    with pytest.raises(SaintpruneError, match="holds no curves that can be read"):
        Curves.load(tmp_path)


def test_curves_check_their_shapes():
    with pytest.raises(ValueError, match=r"each must be \[images, 4\]"):
        Curves("vision", 4, {"a": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="with bins \\+ 1 edges"):
        Curves("vision", 3, {"a": torch.zeros(2, 3)}, {"a": torch.zeros(3, 5)}, {"a": torch.zeros(5)})


def test_what_cannot_be_traced():
    net, adapter, images = families.make("vit")
    with pytest.raises(SaintpruneError, match="no batches"):
        trace(adapter(net), [])
    with pytest.raises(SaintpruneError, match=r"a batch of images is \(B, C, H, W\).* a Tensor of shape \(3, 64, 64\)"):
        trace(adapter(net), [images[0]])
    with pytest.raises(SaintpruneError, match="input_ids and attention_mask by name, but this is a list"):
        trace(HFDecoder(decoder("llama")), [[1, 2]])
    with pytest.raises(SaintpruneError, match="a trace needs an adapter"):
        trace(net, [images])  # pyright: ignore
    with pytest.raises(ValueError, match="rank_every is 0"):
        trace(adapter(net), [images], rank_every=0)
    with adapter(net).pruned(Plan()), pytest.raises(SaintpruneError, match="is being pruned already"):
        trace(adapter(net), [images])


def test_an_observed_decoder_layer_wants_no_cache():
    net = decoder("llama")
    adapter = HFDecoder(net)
    before = footprint(net)
    with adapter.pruned(Plan(), visual=torch.zeros(0, 0, dtype=torch.bool)) as run, ExitStack() as undo:
        observe(undo, adapter, run, 1)
        with pytest.raises(SaintpruneError, match="call it with use_cache=False"):
            net(**prompts())
        with pytest.raises(SaintpruneError, match="layer 6 is to be observed, but the decoder has 6 layers"):
            observe(undo, adapter, run, 6)
    assert_same_footprint(before, footprint(net))


def test_pruned_decoder_layers_can_be_observed():
    net, batch = decoder("llama"), prompts()
    visual = torch.zeros(3, 24, dtype=torch.bool)
    visual[:2, 8:16] = True
    adapter, plan = HFDecoder(net), Plan.language(RandomDrop(), [1], schedule=Schedule(drop=0.5))
    with adapter.pruned(plan, visual=visual) as run, ExitStack() as undo:
        pruned, later = (observe(undo, adapter, run, layer) for layer in (1, 2))
        net(**batch, use_cache=False)
    with adapter.pruned(Plan(), visual=visual) as run, ExitStack() as undo:
        whole = observe(undo, adapter, run, 1)
        net(**batch, use_cache=False)
    torch.testing.assert_close(pruned.mean_keys(), whole.mean_keys())
    torch.testing.assert_close(pruned.importance(), whole.importance())
    assert later.mean_keys().shape[1] == 20, "two prompts lost four tokens, and the third had room in its padding"
    torch.testing.assert_close(later.importance().sum(1), torch.ones(3))
    assert (later.importance()[~later.valid] == 0).all()
