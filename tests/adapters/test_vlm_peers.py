"""What adapters give to the peer methods of the projector and the decoder: prompts' relevance and rows of text."""

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from saintprune import Plan, SaintpruneError, Schedule, Stage
from saintprune.adapters.hf_decoder import DROPPED, HFDecoder
from saintprune.adapters.projector import Projection
from saintprune.adapters.vlm import VLM
from saintprune.config import config_dir, register
from saintprune.evaluation.layer_paths import Depths, follow
from saintprune.evaluation.timing import BenchmarkSettings
from saintprune.evaluation.vlm_benchmark import VLMBenchmark
from saintprune.evaluation.vlm_noise import noise_prompts
from saintprune.evaluation.vlm_passes import see_images
from saintprune.reduction import Reducer
from saintprune.reduction.baselines import Replay
from saintprune.reduction.cdpruner import CDPruner
from saintprune.reduction.dart import Dart
from saintprune.reduction.divprune import DivPrune
from saintprune.reduction.saint import Saint
from saintprune.reduction.saint_budget import SaintBudget
from saintprune.reduction.sparsevlm import SparseVLM
from saintprune.reduction.survivors import keep_all
from saintprune.reduction.visionzip import VisionZip
from saintprune.reduction.vispruner import VisPruner
from vlm_families import IMAGE, VLMS, build, inputs, row_of

TOKENS = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "suppress_tokens": [IMAGE]}
HALF = Schedule(drop=0.5)
TOWERS = ("llava", "llava_next")
TOWER = Stage("vision", "0:2", Saint(threshold=0.1, min_neighbours=1, vote="sample"))


@dataclass(frozen=True)
class Spy(Reducer):
    """Prunes nothing and notes what it was given."""

    kind: str
    seen: list = field(default_factory=list)
    decides: ClassVar[bool] = True

    @property
    def reads(self):
        return frozenset({"keys", self.kind})

    def select(self, state):
        self.seen.append((state, getattr(state, "relevance" if self.kind == "relevance" else "text_attention")()))
        return keep_all(state)


def at_projector(method, schedule=HALF, **more):
    return Plan({"projector": Stage("projector", "all", method, schedule), **more})


def language(method, schedule=HALF, layers=(1, 3)):
    return Plan({"language": Stage("language", layers, method, schedule)})


def plans(name):
    found = {
        "cdpruner": at_projector(CDPruner()),
        "divprune": at_projector(DivPrune()),
        "dart": language(Dart(2)),
        "sparsevlm": language(SparseVLM(0.8, 2, 2)),
        "sparsevlm, no recycling": language(SparseVLM(0.0)),
    }
    if name in TOWERS:
        found |= {
            "visionzip": at_projector(VisionZip(0.4)),
            "vispruner": at_projector(VisPruner()),
            "cdpruner behind a pruned tower": at_projector(CDPruner(), Schedule(drop=0.7), vision=TOWER),
            "visionzip behind a pruned tower": at_projector(VisionZip(0.4), Schedule(drop=0.7), vision=TOWER),
        }
    return found


CASES = [(name, plan) for name in VLMS for plan in plans(name)]


def generate(net, batch, **more):
    out = net.generate(**batch, **TOKENS, return_dict_in_generate=True, output_logits=True, **more)
    return out.sequences, torch.stack(out.logits, 1)


@pytest.mark.parametrize(("name", "plan"), CASES)
class TestPruned:
    def test_a_padded_batch_equals_its_rows(self, name, plan):
        net = build(name)
        batch, adapter, plan = inputs(name, net), VLM(net), plans(name)[plan]
        with adapter.pruned(plan) as run:
            ids, logits = generate(net, batch)
            beams = net.generate(**batch, **TOKENS, num_beams=2)
            pruned = run.visual_tokens_per_layer[-1]
        with adapter.pruned(Plan()) as run:
            unpruned = generate(net, batch)[1]
            assert pruned < run.visual_tokens_per_layer[-1]
        assert not torch.allclose(logits[:2], unpruned[:2], atol=1e-2), "pruning changes nothing"
        torch.testing.assert_close(logits[2], unpruned[2], atol=1e-4, rtol=1e-4)  # it has no image
        for sample in range(3):
            row = row_of(name, batch, sample)
            with adapter.pruned(plan):
                row_ids, row_logits = generate(net, row)
                row_beams = net.generate(**row, **TOKENS, num_beams=2)
            torch.testing.assert_close(row_logits[0], logits[sample], atol=2e-4, rtol=1e-4)
            assert torch.equal(row_ids[0, -4:], ids[sample, -4:])
            assert torch.equal(row_beams[0, -4:], beams[sample, -4:])

    def test_a_forward_pass_chooses_as_generate_does(self, name, plan):
        net = build(name)
        batch, plan = inputs(name, net), plans(name)[plan]
        grid = "mm_token_type_ids" in batch
        positions = {} if grid else {"position_ids": (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)}
        with VLM(net).pruned(plan, recorded=True) as run:
            first = generate(net, batch)[1][:, 0]
            chosen = [event.reductions for event in run.events]
            again = net(**batch, **positions).logits[:, -1]
            found = [event.reductions for event in run.events]
        torch.testing.assert_close(first, again, atol=1e-4, rtol=1e-4)
        for before, after in zip(chosen, found, strict=True):
            assert all(torch.equal(a.keep, b.keep) for a, b in zip(before, after, strict=True))


def images_of(name, net, batch):
    """The features of each image, unpruned."""
    features = list(see_images(net, batch).pooler_output)
    return [tile for sample in features for tile in sample.split(16)] if name == "smolvlm" else features


@pytest.mark.parametrize("way", ["forward", "embeddings", "generate", "beams", "no cache"])
@pytest.mark.parametrize("name", VLMS)
def test_relevance_is_that_of_the_images_own_prompt(name, way):
    net = build(name)
    net.get_input_embeddings().weight.data[0] = 3.0  # padding would be heard
    batch, spy = inputs(name, net), Spy("relevance")
    embedded, ids, mask = net.get_input_embeddings()(batch["input_ids"]), batch["input_ids"], batch["attention_mask"]
    means = [embedded[b][(ids[b] != IMAGE) & mask[b].bool()].mean(0) for b in range(3)]
    images = images_of(name, net, batch)
    images = [image for image in images if len(image)]
    with torch.no_grad(), VLM(net).pruned(at_projector(spy, None)):
        if way == "forward":
            net(**batch)
        elif way == "embeddings":
            if "mm_token_type_ids" in batch:
                pytest.skip("its positions need the ids")
            net(**{key: value for key, value in batch.items() if key != "input_ids"}, inputs_embeds=embedded)
        else:
            net.generate(**batch, **TOKENS, num_beams=3 if way == "beams" else 1, use_cache=way != "no cache")
    checked = []
    for state, relevance in spy.seen:
        for tokens, row in zip(state.tokens, relevance, strict=True):
            if not len(tokens):
                continue
            same = [
                i for i, image in enumerate(images) if image.shape == tokens.shape and torch.allclose(image, tokens)
            ]
            mean = means[[0, 1, 1][same[0]]]
            torch.testing.assert_close(row, F.cosine_similarity(tokens, mean[None], dim=-1), atol=1e-5, rtol=1e-4)
            checked += same
    assert sorted(checked) == [0, 1, 2], "each image once"


def test_generate_guesses_padding_as_ever():
    net = build("llava")
    net.get_input_embeddings().weight.data[0] = 3.0
    batch, found = inputs("llava", net), []
    for given in (batch, {key: value for key, value in batch.items() if key != "attention_mask"}):
        spy = Spy("relevance")
        with VLM(net).pruned(at_projector(spy, None)):
            net.generate(**given, **TOKENS)
        found.append(spy.seen[0][1])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("way", ["forward", "generate"])
def test_a_conversation_is_chosen_by_its_latest_turn(way):
    net, spy = build("llava"), Spy("relevance")
    first, second = inputs("llava", net, (1,), (0,)), inputs("llava", net, (1,), (0,))
    second["input_ids"] = second["input_ids"].clone()
    second["input_ids"][:, -3:] = torch.tensor([7, 8, 9])
    ids = torch.cat([first["input_ids"], second["input_ids"]], 1)
    mask = torch.ones_like(ids)
    turn = second["input_ids"][0]
    mean = net.get_input_embeddings()(turn[turn != IMAGE]).mean(0)
    with torch.no_grad(), VLM(net).pruned(at_projector(spy, None)):
        cache = net(**first, use_cache=True).past_key_values
        pixels = second["pixel_values"]
        if way == "forward":
            net(input_ids=second["input_ids"], attention_mask=mask, pixel_values=pixels, past_key_values=cache)
        else:
            net.generate(ids, attention_mask=mask, pixel_values=pixels, past_key_values=cache, **TOKENS)
    state, row = spy.seen[-1]
    torch.testing.assert_close(row[0], F.cosine_similarity(state.tokens[0], mean[None], dim=-1), atol=1e-5, rtol=1e-4)


def test_images_without_a_prompt_are_an_error():
    net = build("llava")
    batch = inputs("llava", net)
    with VLM(net).pruned(at_projector(CDPruner())):
        with pytest.raises(SaintpruneError, match=r"stages\.projector chooses image tokens by the prompt"):
            net.model.get_image_features(batch["pixel_values"])
        net(**batch)


def test_images_may_be_encoded_apart_from_their_prompts():
    net = build("llava")
    batch = inputs("llava", net)
    with VLM(net).pruned(at_projector(CDPruner()), recorded=True) as run:
        net(**batch)
        expected = run.events[-1].reductions[0].keep
        with run.reading(batch):
            net.model.get_image_features(batch["pixel_values"])
        assert torch.equal(run.projection.events[0].reductions[0].keep, expected[:3])


def test_dropped_rows_never_enter_a_product():
    """An image that lost more tokens in the tower, the first among them, is chosen from as it would be alone."""
    (step,) = at_projector(SaintBudget(), Schedule(keep=(4,))).at("projector", 1).values()
    features = list(torch.randn(2, 12, 8))
    features[1][:5] = DROPPED
    together = Projection(step).apply(features, {})
    for image, found in zip(features, together, strict=True):
        torch.testing.assert_close(found, Projection(step).apply([image], {})[0])
        assert found.isfinite().all(1).sum() == 4


@pytest.mark.parametrize("site", ["vision", "language"])
def test_relevance_elsewhere_is_an_error(site):
    net = build("llava")
    plan = Plan({"stage": Stage(site, [1], CDPruner(), HALF)})
    with (
        VLM(net).pruned(plan),
        pytest.raises(SaintpruneError, match=r"stages\.stage, block 1: relevance .* use site=projector"),
    ):
        net(**inputs("llava", net))


def test_text_elsewhere_is_an_error():
    net = build("llava")
    with VLM(net).pruned(at_projector(SparseVLM())), pytest.raises(SaintpruneError, match="use site=language"):
        net(**inputs("llava", net))


@pytest.mark.parametrize("name", ["llava", "smolvlm"])
def test_rows_of_text_are_the_models_attention(name):
    """Left padding, two images in one prompt: the text between them follows the first alone."""
    net = build(name, "eager")
    batch, spy = inputs(name, net), Spy("text_attention")
    maps = net(**batch, output_attentions=True).attentions[2].mean(1)  # (b, h, t, t) -> (b, t, t)
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    with torch.no_grad(), VLM(net).pruned(language(spy, None, [2])):
        net(**batch)
    ((state, (rows, present)),) = spy.seen
    starts = [(b, int(t)) for b in range(3) for t in ((ids[b] == IMAGE).nonzero()[:, 0][::16])]
    assert len(rows) == len(starts) == 3 and state.keys.shape[1] == 16
    for (b, start), found, there in zip(starts, rows, present, strict=True):
        text = [t for t in range(start + 16, ids.shape[1]) if mask[b, t] and ids[b, t] != IMAGE]
        torch.testing.assert_close(found[there], maps[b, text, start : start + 16], atol=1e-5, rtol=1e-4)
    assert present.sum(1).tolist() == [4, 6, 4]


@pytest.mark.parametrize("name", VLMS)
def test_rows_of_text_after_pruning_equal_those_of_a_prompt_alone(name):
    net = build(name)
    batch = inputs(name, net)

    def watched(given):
        spy = Spy("text_attention")
        stages = {
            "first": Stage("language", [1], Saint(threshold=0.1, min_neighbours=1, vote="sample", order="position")),
            "then": Stage("language", [3], spy),
        }
        with torch.no_grad(), VLM(net).pruned(Plan(stages)):
            net.generate(**given, **TOKENS)
        found = []
        for state, (rows, present) in spy.seen:
            for row in range(len(rows)):
                valid = slice(None) if state.valid is None else state.valid[row]
                found.append(rows[row][present[row]][:, valid])
        return found

    together, apart = watched(batch), watched(row_of(name, batch, 0)) + watched(row_of(name, batch, 1))
    order = lambda rows: sorted(rows, key=lambda row: (tuple(row.shape), round(float(row.sum()), 4)))  # noqa: E731
    for one, other in zip(order(together), order(apart), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_recycled_tokens_are_means_in_their_centres_places():
    net = build("llava")
    batch = inputs("llava", net, (1,), (0,))
    outputs = {}
    hook = net.model.language_model.layers[1].register_forward_hook(lambda _, args, out: outputs.update(x=out))
    with torch.no_grad():
        net(**batch)
        whole = outputs["x"] if isinstance(outputs["x"], torch.Tensor) else outputs["x"][0]
        with VLM(net).pruned(language(SparseVLM(1.0, 2, 2), layers=[1]), recorded=True) as run:
            net(**batch)
    hook.remove()
    (reduction,) = run.events[0].reductions
    left = outputs["x"] if isinstance(outputs["x"], torch.Tensor) else outputs["x"][0]
    first = int((batch["input_ids"][0] == IMAGE).long().argmax())
    expected = reduction.apply(whole[:, first : first + 16])
    assert reduction.merge_to is not None and expected.shape[1] == 8
    torch.testing.assert_close(left[:, first : first + 8], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(left[:, :first], whole[:, :first])


def test_text_alone_in_a_decoder():
    """A decoder without a vision-language model around it has rows of text as well."""
    net = build("llava").model.language_model
    ids = torch.randint(2, 90, (2, 20))
    visual = torch.zeros(2, 20, dtype=torch.bool)
    visual[:, 4:12] = True
    with HFDecoder(net).pruned(language(SparseVLM(0.5, 2, 2)), visual=visual) as run:
        assert net(input_ids=ids).last_hidden_state.isfinite().all()
    assert run.visual_tokens_per_layer == [8, 6, 6, 4, 4, 4]


def test_recorded_recycling_replays():
    net = build("llava")
    batch, plan = inputs("llava", net), language(SparseVLM(0.8, 2, 2))
    with VLM(net).pruned(plan, recorded=True) as run:
        expected = net(**batch).logits
        events = run.events
    replay = Replay({event.layer: event.reductions for event in events}, merges=True)
    with VLM(net).pruned(language(replay, None)):
        assert torch.equal(net(**batch).logits, expected)


def plan_of(pruning):
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return instantiate(compose("config", [f"pruning={pruning}"]).pruning, _convert_="all")


@pytest.mark.parametrize(("pruning", "blocks", "left"), [("fastv", [1], [8]), ("pyramiddrop", [1, 3, 4], [8, 4, 2])])
def test_rows_of_the_last_token_decide_in_the_published_blocks(pruning, blocks, left):
    """The first pruned block against the untouched model's attention; later ones by what is left."""
    net = build("llava", "eager")
    batch = inputs("llava", net, (1, 1), (4, 0))
    attention = net(**batch, output_attentions=True).attentions[blocks[0]].mean(1)[:, -1]
    scores = attention.masked_fill(batch["input_ids"] != IMAGE, -1)
    with VLM(net).pruned(plan_of(pruning), recorded=True) as run:
        net(**batch)
    assert [event.layer for event in run.events] == blocks
    first = (batch["input_ids"] == IMAGE).long().argmax(1)
    expected = scores.topk(8, dim=1).indices.sort(dim=1).values - first[:, None]
    assert torch.equal(run.events[0].reductions[0].keep, expected)
    assert [run.visual_tokens_per_layer[block] for block in blocks] == left


def test_fastervlm_is_top_attention_at_the_projector():
    assert plan_of("fastervlm").stages["projector"] == plan_of("attention_projector").stages["projector"]


@pytest.mark.parametrize("share", [50, 75, 90])
def test_peers_leave_the_same_number_of_tokens(share):
    names = ("fastervlm", "vispruner", "visionzip", "divprune", "cdpruner", "fastv", "pyramiddrop", "dart", "sparsevlm")
    for name in (*names, "random_projector", "random_language", "saint_language"):
        (stage,) = plan_of(f"drop{share}/{name}").stages.values()
        for tokens in (256, 576):
            steps = len(stage.resolve(32))
            assert stage.schedule.budget(steps - 1, steps, tokens) == tokens - round(tokens * share / 100), name


@pytest.mark.parametrize("name", plans("llava"))
def test_paths_of_a_model_that_is_not_there(name):
    """`model.sample_layers`: the method selects among noise; the pruned seconds of the rest are predicted."""
    plan = plans("llava")[name]
    if "tower" in name:
        pytest.skip("its vote needs the whole model")
    path = follow(VLM(build("llava")), plan, Depths(decoder=8, tower=4), 16)
    assert path.decoder[-1] == 8
    for selection in path.selections:
        selection.prepare()()


@pytest.mark.parametrize("plan", ["cdpruner", "sparsevlm", "visionzip"])
def test_peers_can_be_timed(plan):
    """The benchmark also encodes images apart from prompts, replays what was chosen, and counts FLOPs."""
    net = build("llava")
    settings = BenchmarkSettings(pairs=5, max_seconds=60, warmup=0, new_tokens=2)
    found = VLMBenchmark(VLM(net), plans("llava")[plan], [noise_prompts(net, 2, 6)], settings).run()
    assert found.pruned.gflops_prefill < found.baseline.gflops_prefill
    assert found.pruned.visual_tokens_per_layer[-1] == 8 and found.selector_seconds > 0
