"""Whole runs on two processes find what one finds, to the last digit."""

import json
from dataclasses import asdict

import pytest
import torch
from omegaconf import open_dict
from PIL import Image

from saintprune import wiring
from saintprune.config import compose_run
from saintprune.data.imagefolder import ImageFolder
from saintprune.errors import SaintpruneError
from saintprune.reporting.records import RunRecord

TINY = [
    "model.net.architecture=vit_tiny_patch16_224", "model.net.weights=hub", "model.net.img_size=64",
    "+model.net.num_classes=2", "model.pretrained=false", "model.head=none", "dataset=imagefolder",
    "pruning=saint", "pruning.stages.vision.method.threshold=0.05", "pruning.stages.vision.method.min_neighbours=1",
]  # fmt: skip
SHORT = ["hardware.batch_size=3", "hardware.num_workers=0", "benchmark.pairs=5", "benchmark.max_seconds=0"]
IMAGES = 13


@pytest.fixture
def images(tmp_path):
    """A folder of noise in two classes."""
    for number in range(IMAGES):
        folder = tmp_path / "images" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (64, 64, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    return tmp_path / "images"


def run(folder, *overrides, questions=False):
    cfg, names = compose_run([*SHORT, *overrides])
    if questions:
        with open_dict(cfg):
            cfg.model.net = {"_target_": "tiny_questions.load"}
            cfg.model.adapter = {
                "_target_": "saintprune.adapters.vlm.VLM",
                "position_policy": "absolute",
                "cache": "keep",
            }
            cfg.dataset = {"_target_": "tiny_questions.Questions", "limit": None, "answers": ["yes", "alpha", "no"]}
    return wiring.run(cfg, folder, names)


def scores(record: RunRecord):
    """What does not depend on time."""
    arms = ("accuracy", "accuracy_by_kind", "likelihood_accuracy", "tokens_per_layer", "visual_tokens_per_layer")
    found = asdict(record)
    shared = ("num_samples", "agreement", "likelihood_agreement", "output_cosine", "samples_by_kind")
    return json.dumps(
        {key: found[key] for key in shared}
        | {arm: {key: found[arm].get(key) for key in arms} for arm in ("baseline", "pruned")}
        | {"ci": [found["delta"]["accuracy"], found["delta"]["accuracy_ci95"]]}
    )


def test_images_that_two_does_not_divide(images, tmp_path):
    one, two = (
        run(tmp_path / hardware, *TINY, f"dataset.path={images}", f"hardware={hardware}") for hardware in ("cpu", "ddp")
    )
    assert two.num_samples == IMAGES and two.hardware["devices"] == 2 and two.agreement > 0
    assert one.baseline["accuracy"] is not None and one.pruned["tokens_per_layer"][-1] < 17
    assert scores(one) == scores(two)


@pytest.mark.slow
def test_questions_that_two_does_not_divide(tmp_path):
    prune = [
        "pruning=saint_language",
        "pruning.stages.language.layers=[1]",
        "pruning.stages.language.method.threshold=0",
    ]
    one, two = (
        run(tmp_path / hardware, *prune, f"hardware={hardware}", "benchmark.new_tokens=4", questions=True)
        for hardware in ("cpu", "ddp")
    )
    assert two.num_samples == 7 and two.hardware["devices"] == 2
    assert scores(one) == scores(two)


@pytest.mark.slow
def test_an_image_that_the_other_process_cannot_read(images, tmp_path):
    data = ImageFolder(path=str(images), transform=lambda image: image)
    data.setup()
    (images / data.test_dataloader().dataset.files[4].name).write_bytes(b"")  # in the second batch
    with pytest.raises(SaintpruneError, match=r"process of device 1 failed: 1 of 13 images in .* cannot be read"):
        run(tmp_path / "out", *TINY, f"dataset.path={images}", "hardware=ddp")
    assert not (tmp_path / "out" / "metrics.json").exists()
