"""The decoder adapter alone: every decoder, the golden LLM cases, and the bookkeeping of prompts and caches."""

import json
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from saintprune import Plan, Saint, SaintpruneError, Schedule, Stage
from saintprune.adapters.hf_decoder import HFDecoder
from saintprune.adapters.kv_cache import PrunedLayer, cache_lengths
from saintprune.adapters.sequence import find_spans, in_order
from saintprune.reduction import Reduction
from saintprune.reduction.baselines import KeepAll, RandomDrop, Stride, TopKAttention
from saintprune.reduction.pool import Pool
from saintprune.reduction.saint_budget import SaintBudget
from vlm_families import text

DECODERS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": None}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 8}),
}
GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "public.json").read_text())
LLM = [case for case in CASES if case["kind"] in ("saint_llm", "saint_iterative_full_graph")]
LENGTH = 24


def decoder(name, **more):
    torch.manual_seed(0)
    kind, config, own = DECODERS[name]
    return kind._from_config(config(**text(**{**own, **more}))).eval()


def prompt():
    """Three prompts of 24 tokens, left-padded by 5, 0 and 2, with image tokens at 6..17, 6..19 and 6..9, 12..17."""
    ids = torch.randint(2, 90, (3, LENGTH), generator=torch.Generator().manual_seed(4))
    mask = (torch.arange(LENGTH) >= torch.tensor([5, 0, 2])[:, None]).long()
    visual = torch.zeros(3, LENGTH, dtype=torch.bool)
    visual[:, 6:18] = True
    visual[1, 18:20] = True
    visual[2, 10:12] = False
    return {"input_ids": ids, "attention_mask": mask}, visual


def plan(method, layers="1:4", drop=None):
    return Plan({"language": Stage("language", layers, method, None if drop is None else Schedule(drop=drop))})


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("method", [RandomDrop(), TopKAttention()], ids=["random", "attention"])
def test_every_decoder(name, method):
    net, (batch, visual) = decoder(name), prompt()
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "output_logits": True}
    expected = net.generate(**batch, **options, return_dict_in_generate=True)
    with HFDecoder(net).pruned(plan(KeepAll(), "all"), visual=visual):
        found = net.generate(**batch, **options, return_dict_in_generate=True)
        assert torch.equal(torch.stack(found.logits), torch.stack(expected.logits))
    with HFDecoder(net).pruned(plan(method, drop=0.5), visual=visual) as run:
        found = net.generate(**batch, **options, return_dict_in_generate=True)
        # spans of 12, 14, 4 and 6 tokens: after three layers half of each is gone
        assert run.visual_tokens_per_layer[-1] == round((6 + 7 + 2 + 3) / 3, 6)
    assert not torch.allclose(torch.stack(found.logits), torch.stack(expected.logits), atol=1e-2)
    for sample in range(3):
        real = batch["attention_mask"][sample].bool()
        with HFDecoder(net).pruned(plan(method, drop=0.5), visual=visual[sample : sample + 1, real]):
            row = net.generate(batch["input_ids"][sample : sample + 1, real], **options, return_dict_in_generate=True)
        torch.testing.assert_close(
            torch.stack(row.logits)[:, 0], torch.stack(found.logits)[:, sample], atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("case", LLM, ids=lambda case: f"{case['kind']}-{case['case']}")
def test_golden_cases_through_the_decoder(case):
    """Keys are injected where a decoder projects them; at position 0 the rotation leaves them as they are."""
    tensors = load_file(GOLDEN / "public.safetensors")
    metric = tensors[f"{case['case']}.metric"].float()
    batch, tokens, width = metric.shape
    special = 0 if case["kind"] == "saint_llm" else 1
    rotated = width + width % 2  # RoPE needs an even width; a zero channel changes no cosine
    config = LlamaConfig(**text(num_hidden_layers=1, num_key_value_heads=1, num_attention_heads=1, head_dim=rotated))
    net = LlamaForCausalLM._from_config(config).eval()

    class Injected(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.pad(metric, (0, rotated - width))

    net.model.layers[0].self_attn.k_proj = Injected()
    visual = torch.ones(batch, tokens, dtype=torch.bool)
    visual[:, :special] = False
    with HFDecoder(net).pruned(plan(golden_method(case, special), "all"), visual=visual) as run:
        net(torch.zeros(batch, tokens, dtype=torch.long), position_ids=torch.zeros(batch, tokens, dtype=torch.long))
    expected = tensors[f"{case['case']}.keep"].long().sort(dim=1).values
    source = run.current.source
    found = torch.arange(tokens).expand(batch, -1) if source is None else source
    assert torch.equal(found, expected)


def golden_method(case, special):
    if case["kind"] == "saint_llm":
        return Saint(case["threshold"], case["min_neighbors"], case["gamma"], vote="batch")
    return SaintBudget(keep=case["keep"] - special, divisor=case["divisor"], quirk_divisor=True)


def test_the_golden_cases_are_there():
    assert {case["kind"] for case in LLM} == {"saint_llm", "saint_iterative_full_graph"}


def test_kernels_that_unpack_sequences_by_position_ids_see_none_with_gaps():
    net, (batch, visual) = decoder("llama"), prompt()
    seen = []
    layers = net.model.layers
    hooks = [
        layer.self_attn.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
        )
        for layer in layers
    ]
    with HFDecoder(net).pruned(plan(RandomDrop(), drop=0.5), visual=visual):
        net(**batch)
    for hook in hooks:
        hook.remove()
    assert [ids is None for ids in seen] == [False, False, True, True, True, True]


def test_hidden_states_can_be_asked_for():
    net, (batch, visual) = decoder("llama"), prompt()
    with HFDecoder(net).pruned(plan(RandomDrop(), drop=0.5), visual=visual):
        states = net(**batch, output_hidden_states=True).hidden_states
    lengths = [state.shape[1] for state in states]
    assert lengths[0] == LENGTH and sorted(lengths[:-1], reverse=True) == lengths[:-1] and lengths[-2] < LENGTH


def test_an_interrupted_pass_leaves_nothing_behind():
    net, (batch, visual) = decoder("llama"), prompt()

    def interrupt(module, args):
        raise KeyboardInterrupt

    with HFDecoder(net).pruned(plan(TopKAttention(), drop=0.5), visual=visual):
        expected = net(**batch).logits
        hook = net.model.layers[1].self_attn.o_proj.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            net(**batch)
        hook.remove()
        assert torch.equal(net(**batch).logits, expected)


def test_each_beam_has_the_images_of_its_prompt():
    net, (batch, visual) = decoder("llama"), prompt()
    embeds, found = net.get_input_embeddings()(batch["input_ids"]), []
    options = {"max_new_tokens": 4, "num_beams": 2, "num_return_sequences": 2, "do_sample": False}
    for given in (visual, visual.repeat_interleave(2, 0)):
        with HFDecoder(net).pruned(plan(Stride(), drop=0.5), visual=given) as run:
            found.append(net.generate(inputs_embeds=embeds, attention_mask=batch["attention_mask"], **options).tolist())
            assert run.visual_tokens_per_layer[-1] == round((6 + 7 + 2 + 3) / 3, 6)
    assert found[0] == found[1]


def test_masks_of_layers_before_are_not_kept():
    net, (batch, visual) = decoder("llama"), prompt()
    with HFDecoder(net).pruned(plan(RandomDrop(), drop=0.5), visual=visual) as run:
        net(**batch, use_cache=False)
        assert len(run.events) == 3 and len(run.views) == 1


def test_gradients_flow_through_what_is_left():
    net, (batch, visual) = decoder("llama"), prompt()
    with HFDecoder(net).pruned(plan(RandomDrop(), drop=0.5), visual=visual):
        net(**batch).logits[:, -1].sum().backward()
    assert net.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


class TestErrors:
    def test_unknown_decoder(self):
        with pytest.raises(SaintpruneError, match="cannot prune a Linear; it knows LlamaModel"):
            HFDecoder(torch.nn.Linear(2, 2))

    @pytest.mark.parametrize("name", ["mistral", "qwen2"])
    def test_sliding_windows(self, name):
        more = {"sliding_window": 8} | ({"use_sliding_window": True, "max_window_layers": 2} if name == "qwen2" else {})
        with pytest.raises(SaintpruneError, match="sliding window of 8 tokens"):
            HFDecoder(decoder(name, **more))

    def test_other_sites(self):
        vision = Plan({"vision": Stage("vision", "all", KeepAll())})
        with (
            pytest.raises(SaintpruneError, match="only stages with site=language"),
            HFDecoder(decoder("llama")).pruned(vision, visual=prompt()[1]),
        ):
            pass

    @pytest.mark.parametrize("options", [("relative",), ("absolute", "drop")])
    def test_options(self, options):
        with pytest.raises(ValueError, match="but must be"):
            HFDecoder(decoder("llama"), *options)

    def test_images_of_other_prompts(self):
        net, (batch, visual) = decoder("llama"), prompt()
        with HFDecoder(net).pruned(plan(RandomDrop(), drop=0.5), visual=visual) as run:
            net(batch["input_ids"][:2, :10])
            assert run.visual_tokens_per_layer[-1] == 0, "a pass of another length has no images"
            with pytest.raises(SaintpruneError, match="tokens of 3 prompts, but this pass has 2 of their length, 24"):
                net(batch["input_ids"][:2])

    def test_several_devices(self, monkeypatch):
        net, (_, visual) = decoder("llama"), prompt()
        net.model.layers[5].to("meta")
        with HFDecoder(net).pruned(plan(RandomDrop(), drop=0.5), visual=visual):
            pass  # offloaded weights come to the device of the others
        weights = [SimpleNamespace(device=torch.device("cuda", number)) for number in (1, 0)]
        monkeypatch.setattr(net.model, "parameters", lambda: iter(weights))
        with (
            pytest.raises(SaintpruneError, match="this LlamaModel lies on cuda:0, cuda:1, but"),
            HFDecoder(net).pruned(plan(RandomDrop(), drop=0.5), visual=visual),
        ):
            pass
        with HFDecoder(net).pruned(Plan(), visual=visual):
            pass

    def test_another_thread_amid_a_pass(self):
        net, (batch, visual) = decoder("llama"), prompt()

        def amid(module, args):
            hook.remove()
            thread = Thread(target=net, kwargs=batch)
            thread.start()
            thread.join()

        with HFDecoder(net).pruned(plan(RandomDrop(), drop=0.5), visual=visual):
            expected = net(**batch).logits
            hook = net.model.layers[2].mlp.register_forward_pre_hook(amid)
            with pytest.raises(SaintpruneError, match="another thread began a pass"):
                net(**batch)
            assert torch.equal(net(**batch).logits, expected)

    def test_the_error_of_a_method_names_stage_and_block(self):
        net, (batch, visual) = decoder("llama"), prompt()
        with (
            pytest.raises(SaintpruneError, match=r"stages\.language, block 1: Pool needs the patch grid"),
            HFDecoder(net).pruned(plan(Pool(), drop=0.5), visual=visual),
        ):
            net(**batch)


class TestCache:
    def filled(self):
        net, (batch, visual) = decoder("llama"), prompt()
        with HFDecoder(net).pruned(plan(RandomDrop(), drop=0.5), visual=visual):
            cache = net(**batch, use_cache=True).past_key_values
        return cache

    def test_it_tells_what_was_seen_and_holds_what_is_left(self):
        cache = self.filled()
        assert cache.get_seq_length() == LENGTH and cache_lengths(cache)[0] == LENGTH > cache_lengths(cache)[-1]
        assert all(isinstance(layer, PrunedLayer) for layer in cache.layers)

    def test_padding_follows_the_beams(self):
        cache = self.filled()
        before = cache.layers[-1].valid.clone()
        order = torch.tensor([2, 0, 0])
        cache.reorder_cache(order)
        assert torch.equal(cache.layers[-1].valid, before[order])
        cache.batch_repeat_interleave(2)
        assert torch.equal(cache.layers[-1].valid, before[order].repeat_interleave(2, 0))
        cache.batch_select_indices(torch.tensor([0, 5]))
        assert torch.equal(cache.layers[-1].valid, before[[2, 0]])

    def test_it_cannot_be_cropped_into_the_prompt(self):
        with pytest.raises(SaintpruneError, match="only the last 0 came after"):
            self.filled().crop(-1)

    def test_reset(self):
        cache = self.filled()
        cache.reset()
        assert cache.get_seq_length() == 0 and cache.layers[-1].valid is None

    def test_a_cache_that_was_filled_before_is_taken_over(self):
        net, (batch, _) = decoder("llama"), prompt()
        more = torch.randint(2, 90, (3, 4))
        mask = torch.cat([batch["attention_mask"], torch.ones(3, 4, dtype=torch.long)], 1)
        logits = []
        for pruned in (False, True):
            cache = net(**batch, past_key_values=DynamicCache(), use_cache=True).past_key_values
            step = {"input_ids": more, "attention_mask": mask, "past_key_values": cache}
            if pruned:
                with HFDecoder(net).pruned(Plan(), visual=torch.zeros(3, 4, dtype=torch.bool)):
                    logits.append(net(**step).logits)
            else:
                logits.append(net(**step).logits)
        torch.testing.assert_close(*logits)


class TestBookkeeping:
    def test_spans_are_runs_and_lengths_tell_neighbours_apart(self):
        visual = torch.tensor([[0, 1, 1, 0, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0, 0, 0]], dtype=torch.bool)
        found = {spans.length: spans for spans in find_spans(visual, None, False)}
        assert found[2].samples == (0, 1) and found[2].origin.tolist() == [[1, 2], [0, 1]]
        assert found[4].origin.tolist() == [[4, 5, 6, 7]]
        (spans,) = find_spans(visual, [2, 2, 2, 2], False)
        assert spans.origin.tolist() == [[1, 2], [4, 5], [6, 7], [0, 1]] and spans.samples == (0, 0, 0, 1)
        assert find_spans(torch.zeros(2, 3, dtype=torch.bool), None, False) == []

    def test_survivors_are_put_in_order(self):
        reduction = Reduction(
            torch.tensor([[4, 0, 2], [3, 1, 0]]),
            torch.tensor([[True, True, True], [True, True, False]]),
            torch.tensor([[1, 1, 2, 0, 0], [-1, 1, 0, 0, 1]]),
        )
        found, x = in_order(reduction), torch.arange(10.0).view(2, 5, 1)
        assert found.keep.tolist() == [[0, 2, 4], [1, 3, 0]] and found.valid.tolist()[1] == [True, True, False]
        assert found.apply(x)[0].flatten().tolist() == [0.5, 2.0, 3.5]
        assert found.apply(x)[1, :2].flatten().tolist() == [7.5, 7.5]
