"""A vision-language model pruned at three sites: identical where nothing is dropped, exact where something is."""

import pytest
import torch
from transformers import GenerationConfig, PixtralVisionConfig

from saintprune import Plan, Saint, SaintpruneError, Schedule, Stage
from saintprune.adapters.kv_cache import cache_bytes, cache_lengths
from saintprune.adapters.vlm import VLM
from saintprune.reduction.baselines import KeepAll, RandomDrop, Replay, Stride, TopKAttention
from saintprune.reduction.pool import Pool
from saintprune.reduction.tome import ToMe
from vlm_families import IMAGE, VIDEO, VLMS, build, inputs, prompts, row_of

# a random model may say the placeholder itself, which no prompt may hold without its image
TOKENS = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "suppress_tokens": [IMAGE]}
HALF = Schedule(drop=0.5)
SAMPLE = Saint(threshold=0.1, min_neighbours=1, vote="sample")
TOWERS = ("llava", "llava_next")  # architectures whose tower can be pruned


def language(method, schedule=None, layers="1:4"):
    return Plan({"language": Stage("language", layers, method, schedule)})


def plans(name):
    """Plans by name, at each site that an architecture has."""
    found = {
        "language by schedule": language(RandomDrop(), HALF),
        "language by vote": language(SAMPLE),
        "language by attention": language(TopKAttention(), HALF),
        "language, merging": language(ToMe(r=3)),
        "projector": Plan({"projector": Stage("projector", "all", Stride(), HALF)}),
    }
    if name in TOWERS:
        tower = Stage("vision", "0:2", SAMPLE)
        found |= {
            "vision": Plan({"vision": tower}),
            "hybrid": Plan({"vision": tower, "language": Stage("language", "1:4", SAMPLE)}),
            "projector by attention": Plan({"projector": Stage("projector", "all", TopKAttention(), HALF)}),
            "all sites": Plan(
                {
                    "vision": tower,
                    "projector": Stage("projector", "all", TopKAttention(), Schedule(drop=0.6)),
                    "language": Stage("language", "1:4", RandomDrop(), Schedule(drop=0.8)),
                }
            ),
        }
    return found


CASES = [(name, plan) for name in VLMS for plan in plans(name)]


def generate(net, batch, **more):
    """Token ids, and the logits of each step [B, steps, V]."""
    out = net.generate(**batch, **TOKENS, return_dict_in_generate=True, output_logits=True, **more)
    return out.sequences, torch.stack(out.logits, 1), out.past_key_values


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", VLMS)
class TestIdentity:
    def identity(self, adapter):
        sites = ["language", "projector", *(["vision"] if adapter.tower else [])]
        return Plan({site: Stage(site, "0:2" if site == "vision" else "all", KeepAll()) for site in sites})

    @pytest.mark.parametrize("images", [(1,), (1, 2, 0)])
    def test_logits_and_ids_are_bit_equal(self, name, implementation, images):
        net = build(name, implementation)
        batch = inputs(name, net, images, padding=(5, 0, 3)[: len(images)])
        adapter = VLM(net)
        ways = [{}, {"num_beams": 3}, {"use_cache": False}]
        logits, ids = net(**batch).logits, [net.generate(**batch, **TOKENS, **way) for way in ways]
        with adapter.pruned(self.identity(adapter)) as run:
            assert torch.equal(net(**batch).logits, logits)
            assert len(run.visual_tokens_per_layer) == 6 and len(run.events) == 7 + 2 * (adapter.tower is not None)
            for way, expected in zip(ways, ids, strict=True):
                assert torch.equal(net.generate(**batch, **TOKENS, **way), expected)
        assert torch.equal(net(**batch).logits, logits)

    def test_sampling_draws_the_same(self, name, implementation):
        net = build(name, implementation)
        batch, found = inputs(name, net), []
        for plan in (Plan(), self.identity(VLM(net))):
            torch.manual_seed(3)
            with VLM(net).pruned(plan):
                found.append(net.generate(**batch, max_new_tokens=5, min_new_tokens=5, do_sample=True))
        torch.manual_seed(3)
        expected = net.generate(**batch, max_new_tokens=5, min_new_tokens=5, do_sample=True)
        assert torch.equal(found[0], expected) and torch.equal(found[1], expected)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize(("name", "plan"), CASES)
class TestPruned:
    def test_a_padded_batch_equals_its_rows(self, name, plan, implementation):
        net = build(name, implementation)
        batch, adapter, plan = inputs(name, net), VLM(net), plans(name)[plan]
        with adapter.pruned(plan) as run:
            ids, logits, _ = generate(net, batch)
            pruned = run.visual_tokens_per_layer[-1]
        with adapter.pruned(Plan()) as run:
            unpruned_logits = generate(net, batch)[1]
            assert pruned < run.visual_tokens_per_layer[-1]
        assert not torch.allclose(logits[:2], unpruned_logits[:2], atol=1e-2), "pruning changes nothing"
        torch.testing.assert_close(logits[2], unpruned_logits[2], atol=1e-4, rtol=1e-4)  # it has no image
        for sample in range(3):
            with adapter.pruned(plan):
                row_ids, row, _ = generate(net, row_of(name, batch, sample))
            torch.testing.assert_close(row[0], logits[sample], atol=2e-4, rtol=1e-4)
            assert torch.equal(row_ids[0, -5:], ids[sample, -5:])

    def test_step_by_step_equals_a_full_recompute(self, name, plan, implementation):
        net = build(name, implementation)
        batch, adapter = inputs(name, net), VLM(net)
        by_last_token, plan = plan == "language by attention", plans(name)[plan]
        with adapter.pruned(plan, recorded=True) as run:
            ids, steps, _ = generate(net, batch)
            events = run.events
            without_cache, again, _ = generate(net, batch, use_cache=False)
        if not by_last_token:  # without a cache every step is a prompt, whose last token differs
            assert torch.equal(without_cache, ids)
            torch.testing.assert_close(again, steps, atol=2e-4, rtol=1e-4)
        stages = {
            key: Stage(
                stage.site,
                stage.layers,
                Replay({e.layer: e.reductions for e in events if e.stage == key}, stage.method.merges),
            )
            for key, stage in plan.stages.items()
        }
        longer = dict(batch, input_ids=ids)
        added = torch.ones(3, 5, dtype=torch.long)
        longer["attention_mask"] = torch.cat([batch["attention_mask"], added], 1)
        if "mm_token_type_ids" in batch:
            longer["mm_token_type_ids"] = (ids == IMAGE).int()
            longer["mm_token_type_ids"][:, -5:] = 0
        else:
            longer["position_ids"] = (longer["attention_mask"].cumsum(1) - 1).clamp_min(0)
        with adapter.pruned(Plan(stages)):
            full = net(**longer).logits
        torch.testing.assert_close(full[:, -6:-1], steps, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", VLMS)
def test_prompts_without_images_are_left_alone(name):
    net = build(name)
    batch = inputs(name, net, (0, 0), (2, 0))
    logits, ids = net(**batch).logits, net.generate(**batch, **TOKENS)
    with VLM(net).pruned(plans(name)["language by vote"]) as run:
        net(**inputs(name, net))
        assert run.events
        assert torch.equal(net(**batch).logits, logits) and torch.equal(net.generate(**batch, **TOKENS), ids)
        assert run.events == [] and set(run.visual_tokens_per_layer) == {0.0}


@pytest.mark.parametrize("name", VLMS)
def test_a_plan_that_prunes_nothing_fits_every_model(name):
    net = build(name)
    batch = inputs(name, net)
    expected = net(**batch).logits
    with VLM(net).pruned(Plan({"vision": Stage("vision", "all", KeepAll())})):
        assert torch.equal(net(**batch).logits, expected)


@pytest.mark.parametrize("policy", ["absolute", "compact"])
@pytest.mark.parametrize("cache", ["keep", "trim"])
def test_every_policy_serves_rows_beams_and_caches_alike(policy, cache):
    net = build("llava")
    batch, adapter, plan = inputs("llava", net), VLM(net, policy, cache), plans("llava")["hybrid"]
    with adapter.pruned(plan) as run:
        _, logits, found = generate(net, batch)
        beams = net.generate(**batch, **TOKENS, num_beams=3, num_return_sequences=3)
        lengths = [round(tokens * 3) for tokens in run.tokens_per_layer]
    for sample in range(3):
        with adapter.pruned(plan) as run:
            _, row, row_cache = generate(net, row_of("llava", batch, sample))
            held = cache_lengths(row_cache)
            # what enters a layer is what left the one before; a trimmed layer holds what leaves it
            before = [run.decoder.tokens_at_entry, *run.tokens_per_layer[:-1]]
            expected = run.tokens_per_layer if cache == "trim" else before
            assert held == [int(tokens) + 4 for tokens in expected]  # the fifth new token is never fed
            alone = net.generate(**row_of("llava", batch, sample), **TOKENS, num_beams=3, num_return_sequences=3)
        torch.testing.assert_close(row[0], logits[sample], atol=2e-4, rtol=1e-4)
        assert torch.equal(alone[:, -5:], beams[3 * sample : 3 * sample + 3, -5:])
    heads, width, batch_size = 2, 8, 3
    assert cache_bytes(found) == sum(cache_lengths(found)) * heads * width * batch_size * 2 * 4
    assert sum(lengths) < 3 * 6 * batch["input_ids"].shape[1]


def test_the_policies_differ():
    net = build("llava")
    batch, found = inputs("llava", net), []
    for options in (("absolute", "keep"), ("compact", "keep"), ("absolute", "trim")):
        with VLM(net, *options).pruned(language(RandomDrop(), HALF)):
            found.append(generate(net, batch)[1])
    assert not torch.allclose(found[0], found[1], atol=1e-3)
    assert not torch.allclose(found[0][:, 1:], found[2][:, 1:], atol=1e-3)
    assert torch.equal(found[0][:, 0], found[2][:, 0]), "trimming touches what comes after the prompt"


def test_logits_keep_the_prompts_shape_and_labels_work():
    net = build("llava")
    batch = inputs("llava", net)
    labels = batch["input_ids"].masked_fill(batch["input_ids"] == IMAGE, -100)
    with VLM(net).pruned(language(RandomDrop(), HALF)):
        out = net(**batch, labels=labels)
    assert out.logits.shape == (*batch["input_ids"].shape, 100) and out.loss.isfinite()


def test_right_padding_equals_left_padding():
    net = build("llava")
    left = inputs("llava", net, (1, 1), (4, 0))
    count = left["attention_mask"].sum(1)
    right = dict(left)
    for key in ("input_ids", "attention_mask"):
        right[key] = torch.stack([row.roll(int(n) - len(row)) for row, n in zip(left[key], count, strict=True)])
    with VLM(net).pruned(language(TopKAttention(), HALF)):
        expected = net(**left, position_ids=(left["attention_mask"].cumsum(1) - 1).clamp_min(0)).logits[:, -1]
        found = net(**right).logits[torch.arange(2), count - 1]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_conversation_goes_on_with_its_cache_and_another_image():
    net = build("llava")
    first, second = inputs("llava", net, (1,), (0,)), inputs("llava", net, (1,), (0,))
    plan = language(Stride(), HALF)
    ids = torch.cat([first["input_ids"], second["input_ids"]], 1)
    with VLM(net).pruned(plan):
        out = net(**first, use_cache=True)
        mask = torch.ones_like(ids)
        cache, pixels = out.past_key_values, second["pixel_values"]
        stepwise = net(
            input_ids=second["input_ids"], attention_mask=mask, pixel_values=pixels, past_key_values=cache
        ).logits
        assert cache.get_seq_length() == ids.shape[1]
        whole = net(input_ids=ids, attention_mask=mask, pixel_values=torch.cat([first["pixel_values"], pixels])).logits
    torch.testing.assert_close(stepwise[:, -1], whole[:, -1], atol=1e-4, rtol=1e-4)


def test_prompt_lookup_crops_what_it_guessed_wrong():
    net = build("llava")
    batch = inputs("llava", net, (1,), (0,))
    with VLM(net).pruned(language(RandomDrop(), HALF)):
        expected = net.generate(**batch, **TOKENS)
        assert torch.equal(net.generate(**batch, **TOKENS, prompt_lookup_num_tokens=2), expected)


def test_streaming():
    class Streamer:
        def __init__(self):
            self.tokens = []

        def put(self, value):
            self.tokens += value.flatten().tolist()

        def end(self):
            self.tokens.append("end")

    net, streamer = build("llava"), Streamer()
    batch = inputs("llava", net, (1,), (0,))
    with VLM(net).pruned(language(RandomDrop(), HALF)):
        ids = net.generate(**batch, **TOKENS, streamer=streamer)
    assert streamer.tokens == [*ids[0].tolist(), "end"]


def test_importance_is_the_last_text_tokens_attention():
    net = build("llava", "eager")
    batch = inputs("llava", net, (1, 1), (4, 0))
    attention = net(**batch, output_attentions=True).attentions[2].mean(1)[:, -1]  # (b, h, t, t) -> (b, t)
    scores = attention.masked_fill(batch["input_ids"] != IMAGE, -1)
    with VLM(net).pruned(language(TopKAttention(), HALF, layers=[2]), recorded=True) as run:
        net(**batch)
    (event,) = run.events
    first = (batch["input_ids"] == IMAGE).long().argmax(1)
    expected = scores.topk(8, dim=1).indices.sort(dim=1).values - first[:, None]
    assert torch.equal(event.reductions[0].keep, expected)


def test_projector_importance_is_the_class_tokens_attention():
    net = build("llava", "eager")
    batch = inputs("llava", net, (1, 1), (0, 0))
    maps = net.model.vision_tower(batch["pixel_values"], output_attentions=True).attentions
    expected = maps[2].mean(1)[:, 0, 1:].topk(8, dim=1).indices.sort(dim=1).values  # block 2 makes hidden state -2
    plan = Plan({"projector": Stage("projector", "all", TopKAttention(), HALF)})
    with VLM(net).pruned(plan, recorded=True) as run:
        net(**batch)
    assert torch.equal(run.events[-1].reductions[0].keep, expected)


def test_tiles_of_all_images_in_one_row():
    net = build("llava_next")
    batch = inputs("llava_next", net, (1, 1), (0, 0))
    tiles = torch.cat([tiles[:count] for tiles, count in zip(batch["pixel_values"], (3, 5), strict=True)])
    with VLM(net).pruned(Plan({"projector": Stage("projector", "all", TopKAttention(), HALF)})) as run:
        expected = net(**batch).logits
        assert torch.equal(net(**batch | {"pixel_values": tiles}).logits, expected)
        assert run.events[-1].tokens_after < run.events[-1].tokens_before


@pytest.mark.parametrize("site", ["projector", "language"])
def test_tiles_of_one_image_are_pruned_apart(site):
    """InternVL's tiles stand side by side, without text between them."""
    net = build("internvl")
    batch = prompts([[32], [16]], (0, 3)) | {"pixel_values": torch.randn(3, 3, 32, 32)}
    plan = plans("internvl")["projector"] if site == "projector" else language(Stride(), HALF, layers=[1])
    with VLM(net).pruned(plan, recorded=True) as run:
        together = net.generate(**batch, **TOKENS, num_beams=2)
        images = 3 if site == "projector" else 6  # there, before there are beams
        assert [event.reductions[0].keep.shape for event in run.events] == [(images, 8)]
        alone = {key: value[: 2 if key == "pixel_values" else 1] for key, value in batch.items()}
        assert torch.equal(net.generate(**alone, **TOKENS, num_beams=2)[0], together[0])


@pytest.mark.parametrize("site", ["projector", "language"])
@pytest.mark.parametrize("name", ["onevision", "qwen2", "qwen"])
def test_a_video_beside_an_image_is_left_alone(name, site):
    net = build(name)
    batch, grid = inputs(name, net, (1,), (0,)), name != "onevision"
    ids = torch.cat([torch.full((1, 32 if grid else 9), VIDEO), batch["input_ids"]], dim=1)
    video = torch.randn(128, 48) if grid else torch.randn(1, 2, 3, 16, 16)  # two frames
    batch |= {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": video}
    if grid:
        types = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
        batch |= {"video_grid_thw": torch.tensor([[2, 8, 8]]), "mm_token_type_ids": types}
    total, visual = ids.shape[1], int((ids == IMAGE).sum())
    expected = net(**batch).logits
    with VLM(net).pruned(Plan()):
        assert torch.equal(net(**batch).logits, expected)
    with VLM(net).pruned(plans(name)["projector"] if site == "projector" else language(Stride(), HALF)) as run:
        assert generate(net, batch)[1].isfinite().all()
        assert (run.tokens_per_layer[-1], run.visual_tokens_per_layer[-1]) == (total - visual // 2, visual // 2)


def test_a_tower_that_no_adapter_knows():
    tower = PixtralVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=4
    )
    net = build("llava", vision_config=tower, vision_feature_layer=-1, vision_feature_select_strategy="full")
    batch = inputs("llava", net) | {"image_sizes": torch.tensor([[16, 16]] * 3)}
    adapter, unpruned = VLM(net), net(**batch).logits
    assert adapter.tower is None and adapter.vision_depth is None
    for plan in (language(RandomDrop(), HALF), plans("llava")["projector"]):
        with adapter.pruned(plan) as run:
            assert not torch.allclose(net(**batch).logits[:, -1], unpruned[:, -1], atol=1e-2)
        assert run.visual_tokens_per_layer[-1] == 8
    with pytest.raises(SaintpruneError, match=r"its tower is a PixtralVisionModel, .* Use site=projector or"):
        adapter.check(plans("llava")["vision"])
    with (
        pytest.raises(SaintpruneError, match=r"its tower is a PixtralVisionModel, .* Use site=language"),
        adapter.pruned(plans("llava")["projector by attention"]),
    ):
        pass


def test_pooling_averages_the_features():
    net = build("llava")
    batch = inputs("llava", net, (1,), (0,))
    features = net.model.get_image_features(batch["pixel_values"]).pooler_output[0]
    expected = features.view(2, 2, 2, 2, -1).mean((1, 3)).flatten(0, 1)  # 4 x 4 -> 2 x 2
    with VLM(net).pruned(Plan({"projector": Stage("projector", "all", Pool(), Schedule(keep=(4,)))})):
        found = net.model.get_image_features(batch["pixel_values"]).pooler_output[0]
    torch.testing.assert_close(found[found.isfinite().all(1)], expected)


def test_the_model_is_given_back_after_an_error():
    net = build("llava")
    batch = inputs("llava", net)
    expected, state = net(**batch).logits, {id(module): set(module.__dict__) for module in net.modules()}
    with pytest.raises(KeyError), VLM(net).pruned(plans("llava")["all sites"]):
        net(**batch)
        raise KeyError
    assert {id(module): set(module.__dict__) for module in net.modules()} == state
    assert torch.equal(net(**batch).logits, expected)


class TestErrors:
    """One line each: what, where, what next."""

    def raises(self, message, call):
        with pytest.raises(SaintpruneError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)

    def test_placeholder_without_image(self):
        net = build("llava")
        batch = inputs("llava", net)
        del batch["pixel_values"]
        with VLM(net).pruned(language(RandomDrop(), HALF)):
            self.raises("48 image placeholders .* no image was given", lambda: net(**batch))
            self.raises("no image was given", lambda: net.generate(**batch, **TOKENS))

    def test_image_without_placeholder(self):
        net = build("llava")
        batch = inputs("llava", net, (0,), (0,)) | {"pixel_values": torch.randn(1, 3, 16, 16)}
        with VLM(net).pruned(language(RandomDrop(), HALF)):
            self.raises(r"0 image placeholders .* 1 image\(s\) given make 16 tokens", lambda: net(**batch))
            self.raises("0 image placeholders", lambda: net.generate(**batch, **TOKENS))

    def test_unknown_architecture(self):
        known = "LlavaFor.*LlavaNext.*LlavaOnevision.*SmolVLM.*InternVL.*Qwen2VL.*Qwen2_5_VL"
        self.raises(f"cannot prune a Linear; it knows {known}", lambda: VLM(torch.nn.Linear(2, 2)))

    def test_layers_above_the_features(self):
        net = build("llava")
        plan = Plan({"vision": Stage("vision", [3], SAMPLE)})
        self.raises(r"layers has 3, .* after block 2 of 4 .*prune at 2 or below", lambda: VLM(net).check(plan))

    @pytest.mark.parametrize("layers", ["all", "1:"])
    def test_open_ends_stop_where_the_features_are_read(self, layers):
        net = build("llava")
        adapter, batch = VLM(net), inputs("llava", net)
        logits = []
        for given in (layers, [0, 1, 2] if layers == "all" else [1, 2]):
            with adapter.pruned(Plan({"vision": Stage("vision", given, ToMe(), HALF)})) as run, torch.no_grad():
                logits.append(net(**batch).logits)
            assert run.vision.tokens_per_layer[-2:] == [9, 9], "8 patches and the class token"
        assert torch.equal(*logits)
        self.raises("has 3, but this model", lambda: adapter.check(Plan.vision(ToMe(), "3:", schedule=HALF)))

    @pytest.mark.parametrize(("layer", "last"), [(-1, 3), (2, 1), ([1, -1], 0)])
    def test_the_feature_layer_is_read_from_the_config(self, layer, last):
        net = build("llava", vision_feature_layer=layer)
        VLM(net).check(Plan({"vision": Stage("vision", [last], SAMPLE)}))
        if last < 3:
            plan = Plan({"vision": Stage("vision", [last + 1], SAMPLE)})
            self.raises(f"after block {last}", lambda: VLM(net).check(plan))

    @pytest.mark.parametrize("name", [name for name in VLMS if name not in TOWERS])
    def test_towers_that_fold_patches(self, name):
        plan = Plan({"vision": Stage("vision", [0], SAMPLE)})
        self.raises("folds .* Use site=projector or site=language", lambda: VLM(build(name)).check(plan))
        plan = Plan({"projector": Stage("projector", "all", TopKAttention(), HALF)})
        with pytest.raises(SaintpruneError, match="Use site=language"), VLM(build(name)).pruned(plan):
            pass

    def test_decoder_layers_that_are_not_there(self):
        plan = language(KeepAll(), layers="4:9")
        self.raises("the network has 6 blocks", lambda: VLM(build("llava")).check(plan))

    @pytest.mark.parametrize("name", ["qwen2", "qwen"])
    def test_renumbering_a_grid(self, name):
        self.raises("position_policy=absolute", lambda: VLM(build(name), "compact"))

    def test_nesting(self):
        net = build("llava")
        with VLM(net).pruned(Plan()):
            self.raises("pruned already", lambda: VLM(net).pruned(Plan()).__enter__())

    def test_a_cache_that_does_not_grow(self):
        net = build("llava")
        batch = inputs("llava", net)
        with VLM(net).pruned(language(RandomDrop(), HALF)):
            call = lambda: net.generate(**batch, **TOKENS, cache_implementation="static", disable_compile=True)  # noqa: E731
            self.raises("leave past_key_values and cache_implementation", call)

    def test_a_cache_outside_its_block(self):
        net = build("llava")
        batch = inputs("llava", net, (1,), (0,))
        with VLM(net).pruned(language(RandomDrop(), HALF)):
            cache = net(**batch, use_cache=True).past_key_values
        mask = torch.ones(1, batch["input_ids"].shape[1] + 1, dtype=torch.long)
        step = {"input_ids": torch.tensor([[5]]), "attention_mask": mask, "past_key_values": cache}
        self.raises("inside a `with adapter.pruned", lambda: net(**step))
        with VLM(net).pruned(Plan()):
            assert net(**step).logits.isfinite().all()

    def test_prompts_with_images_in_chunks(self):
        net = build("llava")
        batch, text = inputs("llava", net), inputs("llava", net, (0,), (0,))
        expected, chunks = net.generate(**text, **TOKENS), GenerationConfig(prefill_chunk_size=8, max_new_tokens=2)
        with VLM(net).pruned(language(RandomDrop(), HALF)):
            message = "prefill_chunk_size=8 would cut images .* prefill_chunk_size=None"
            self.raises(message, lambda: net.generate(**batch, **TOKENS, prefill_chunk_size=8))
            whole = batch["input_ids"].shape[1]
            assert torch.equal(
                net.generate(**batch, **TOKENS, prefill_chunk_size=whole), net.generate(**batch, **TOKENS)
            )
            self.raises(message, lambda: net.generate(**batch, generation_config=chunks))
            assert torch.equal(net.generate(**text, **TOKENS, prefill_chunk_size=2), expected)

    def test_ready_made_and_packed_masks(self):
        net = build("llava")
        batch = inputs("llava", net, (1,), (0,))
        length = batch["input_ids"].shape[1]
        with VLM(net).pruned(Plan()):
            ready = batch | {"attention_mask": torch.ones(1, 1, length, length, dtype=torch.bool)}
            self.raises("not a ready-made one", lambda: net(**ready))
            del batch["attention_mask"]
            packed = (torch.arange(length) % 10)[None]
            self.raises("several sequences packed", lambda: net(**batch, position_ids=packed, use_cache=False))
