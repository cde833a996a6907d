"""Loading vision-language models: random weights of every architecture, local folders, clear errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_vlm
from saintprune.errors import SaintpruneError
from saintprune.evaluation.vlm_noise import noise_prompts
from saintprune.models.vlm import load
from saintprune.models.vlm_configs import PUBLISHED, published_config
from saintprune.models.vlm_folder import architecture_of

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 200,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
TOWER = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 56}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
SMALL = {
    "llava-hf/llava-1.5-7b-hf": {
        "text_config": TEXT,
        "vision_config": {**TOWER, "intermediate_size": 64},
        "image_token_index": 150,
        "image_seq_length": 16,
    },
    "llava-hf/llava-v1.6-mistral-7b-hf": {
        "text_config": TEXT,
        "vision_config": {**TOWER, "intermediate_size": 64},
        "image_token_index": 150,
        "image_grid_pinpoints": [[112, 112], [56, 112]],
    },
    "HuggingFaceTB/SmolVLM2-500M-Video-Instruct": {
        "text_config": TEXT,
        "vision_config": {**TOWER, "image_size": 64, "patch_size": 8, "intermediate_size": 64},
        "image_token_id": 150,
    },
    "Qwen/Qwen2.5-VL-3B-Instruct": {
        "text_config": {**TEXT, "rope_parameters": MROPE},
        "vision_config": {
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
        },
        "image_token_id": 150,
        "video_token_id": 151,
        "vision_start_token_id": 152,
        "vision_end_token_id": 153,
    },
    "Qwen/Qwen2-VL-7B-Instruct": {
        "text_config": {**TEXT, "rope_parameters": MROPE},
        "vision_config": {"depth": 3, "embed_dim": 32, "num_heads": 4, "hidden_size": 32},
        "image_token_id": 150,
        "video_token_id": 151,
        "vision_start_token_id": 152,
        "vision_end_token_id": 153,
    },
    "OpenGVLab/InternVL3-8B-hf": {
        "text_config": TEXT,
        "vision_config": {**TOWER, "image_size": [56, 56], "intermediate_size": 64},
        "image_token_id": 150,
    },
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": {
        "text_config": TEXT,
        "vision_config": {**TOWER, "intermediate_size": 64},
        "image_token_index": 150,
        "video_token_index": 151,
        "image_grid_pinpoints": [[112, 112], [56, 112]],
    },
    "vit_s14_smollm2": {
        "text_config": TEXT,
        "vision_config": TOWER,
        "image_token_index": 150,
        "image_seq_length": 16,
    },
}
LLAVA = "llava-hf/llava-1.5-7b-hf"
LAST_BUT_ONE = (LLAVA, "llava-hf/llava-v1.6-mistral-7b-hf", "vit_s14_smollm2")  # the block that is read
PARAMETERS = {  # as published, tied matrices counted once
    "llava-hf/llava-1.5-7b-hf": 7_063_427_072,
    "llava-hf/llava-1.5-13b-hf": 13_351_494_656,
    "llava-hf/llava-v1.6-mistral-7b-hf": 7_566_747_648,
    "HuggingFaceTB/SmolVLM2-500M-Video-Instruct": 507_482_304,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "Qwen/Qwen2-VL-7B-Instruct": 8_291_375_616,
    "OpenGVLab/InternVL3-8B-hf": 7_944_373_760,
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": 8_030_348_832,
    "vit_s14_smollm2": 157_125_888,
}


def small(name: str = LLAVA, **settings):
    return load(name, pretrained=False, config=SMALL[name], **settings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder as `save_pretrained` writes it, of a tiny LLaVA with its processor."""
    tiny = tiny_vlm.load()
    tiny.net.save_pretrained(tmp_path)
    tiny.processor.tokenizer.padding_side = "right"
    tiny.processor.save_pretrained(tmp_path)
    return tmp_path


# --- random weights -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_random_weights_answer_and_follow_their_seed(name: str) -> None:
    state = torch.get_rng_state()
    loaded = small(name)
    assert torch.equal(torch.get_rng_state(), state)
    assert loaded.processor is None and loaded.weights_sha256 is None and not loaded.net.training
    assert not any(parameter.requires_grad for parameter in loaded.net.parameters())
    assert loaded.source["weights"] == "random" and loaded.source["dimensions"] == name
    json.dumps(dict(loaded.source))
    inputs = noise_prompts(loaded.net, batch=2, text_tokens=8)
    with torch.inference_mode():
        logits = loaded.net(**inputs).logits
        assert torch.isfinite(logits).all() and logits.std() > 0
        assert torch.equal(small(name).net(**inputs).logits, logits)
        assert not torch.equal(small(name, seed=1).net(**inputs).logits, logits)
        assert loaded.net.generate(**inputs, max_new_tokens=2, do_sample=False).shape[0] == 2


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_dimensions_give_the_published_number_of_parameters(name: str) -> None:
    config = published_config(name, None)
    with torch.device("meta"):
        net = architecture_of(config.model_type, name)(config)
    net.tie_weights()
    assert sum(parameter.numel() for parameter in net.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", SMALL)
def test_sampled_layers_keep_the_width_and_are_on_the_record(name: str) -> None:
    loaded = small(name, sample_layers=1)
    kept = 2 if name in LAST_BUT_ONE else 1
    assert loaded.source["layers"] == {
        "language": {"sampled": 1, "published": 3},
        "vision": {"sampled": kept, "published": 3},
    }
    inputs = noise_prompts(loaded.net, batch=1, text_tokens=8)
    assert torch.isfinite(loaded.net(**inputs).logits).all()
    assert loaded.net.config.text_config.hidden_size == 32


def test_half_precision_and_attention_are_the_ones_asked_for() -> None:
    net = small(dtype="bfloat16", attn_implementation="eager").net
    assert {parameter.dtype for parameter in net.parameters()} == {torch.bfloat16}
    assert net.config._attn_implementation == net.model.language_model.config._attn_implementation == "eager"
    rope = net.model.language_model.rotary_emb.inv_freq
    assert rope.dtype == torch.float32 and rope[0] == 1.0  # its buffers are made, not left empty


# --- local folders ------------------------------------------------------------------------------------------


def test_a_folder_is_loaded_with_its_processor(folder: Path) -> None:
    loaded, tiny = load(checkpoint=str(folder)), tiny_vlm.load()
    assert loaded.architecture == "LlavaForConditionalGeneration" and len(loaded.weights_sha256 or "") == 64
    assert loaded.processor.tokenizer.padding_side == "left"
    assert loaded.prompt("Why?", 2) == "<image>\n<image>\nQ: Why?\nA:" and loaded.prompt("Why?", 0) == "Q: Why?\nA:"
    inputs = noise_prompts(tiny.net, batch=1, text_tokens=8)
    assert torch.equal(loaded.net(**inputs).logits, tiny.net(**inputs).logits)
    json.dumps(dict(loaded.source))


def test_a_folder_in_parts_is_loaded_and_named_by_all_of_them(folder: Path) -> None:
    whole = load(checkpoint=str(folder))
    (folder / "model.safetensors").unlink()
    tiny_vlm.load().net.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    parts = load(checkpoint=str(folder))
    assert len(parts.weights_sha256 or "") == 64 and parts.weights_sha256 != whole.weights_sha256
    next(folder.glob("*.safetensors")).unlink()
    with pytest.raises(SaintpruneError, match=r"is no complete model: .*all its parts"):
        load(checkpoint=str(folder))


def test_a_missing_weight_is_an_error(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "multi_modal_projector.linear_2.bias" in name)
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SaintpruneError, match=r"lacks 1 weights of LlavaFor.*multi_modal_projector.linear_2.bias"):
        load(checkpoint=str(folder))


def test_damaged_weights_and_folders_without_processor_are_one_line(folder: Path) -> None:
    (folder / "processor_config.json").unlink()
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(SaintpruneError, match=r"^model.checkpoint .*(cannot be loaded|has no processor)"):
        load(checkpoint=str(folder))
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(SaintpruneError, match=r"^model.checkpoint \S+ cannot be loaded: .+") as caught:
        load(checkpoint=str(folder))
    assert "\n" not in str(caught.value)


def test_another_architecture_is_refused_with_those_that_can_be_loaded(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "idefics3"}))
    known = "LlavaFor.*LlavaNext.*LlavaOnevision.*SmolVLM.*InternVL.*Qwen2VL.*Qwen2_5_VL"
    with pytest.raises(SaintpruneError, match=f"'idefics3'.*{known}"):
        load(checkpoint=str(folder))


# --- requests that cannot be met ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "names no weights: give repository, checkpoint, or weights=packaged:vit_s14_smollm2"),
        ({"weights": "packaged:other"}, "'packaged:other'; give hub or packaged:vit_s14_smollm2"),
        ({"checkpoint": "a", "pretrained": False}, "leave out one of them"),
        ({"checkpoint": "no/such/folder"}, "model.checkpoint no/such/folder: there is no such folder"),
        ({"repository": LLAVA, "sample_layers": 2}, "model.sample_layers .*add model.pretrained=false"),
        ({"repository": LLAVA, "config": {"x": 1}}, "model.net.config .*add model.pretrained=false"),
        ({"repository": LLAVA, "dtype": "bf16"}, r"dtype is 'bf16'.*give float32, bfloat16, float16"),
        ({"repository": LLAVA, "attn_implementation": "spda"}, r"did you mean 'sdpa'\?.*eager"),
        ({"repository": LLAVA, "attn_implementation": "flash_attention_2"}, r"pip install flash-attn, or take sdpa"),
        ({"repository": "llava-hf/llava-1.5-7b", "pretrained": False}, r"did you mean 'llava-hf/llava-1.5-7b-hf'\?"),
        ({"repository": "x", "pretrained": False, "config": {"model_type": "clip"}}, "'clip'.*LlavaNextFor"),
        ({"repository": LLAVA, "pretrained": False, "config": {"vision_feature_select_strategy": 3}}, "net.config"),
        ({"repository": LLAVA, "pretrained": False, "sample_layers": 0}, "has 32 decoder layers and 24 tower blocks"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line(settings: dict, message: str) -> None:
    with pytest.raises(SaintpruneError, match=message) as caught:
        load(**settings)
    assert "\n" not in str(caught.value)


def test_random_weights_cannot_be_asked() -> None:
    with pytest.raises(SaintpruneError, match=r"random weights\) has no processor.*task=benchmark"):
        small().prompt("Why?")


# --- the hub ------------------------------------------------------------------------------------------------


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty hub cache, with the hub out of reach."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.mark.parametrize("repository", [LLAVA, "no name/of/a repository"])
def test_without_hub_the_error_says_what_to_do(hub_cache: Path, repository: str) -> None:
    with pytest.raises(
        SaintpruneError, match=r"run once on a machine with hub access.*checkpoint=FOLDER.*pretrained"
    ) as e:
        load(repository)
    assert "\n" not in str(e.value) and repository in str(e.value)


def test_a_cached_repository_needs_no_hub_and_its_commit_is_on_the_record(hub_cache: Path, folder: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = hub_cache / "models--tiny--llava"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        if file.is_file():
            file.rename(snapshot / file.name)
    loaded = load("tiny/llava")
    assert loaded.source["hub_id"] == "tiny/llava" and loaded.source["revision"] == commit
    assert load("tiny/llava", revision=commit).weights_sha256 == loaded.weights_sha256
    (snapshot / "model.safetensors").unlink()  # a download that was interrupted
    with pytest.raises(SaintpruneError, match=r"tiny/llava are not \(all\) in the local cache"):
        load("tiny/llava")
