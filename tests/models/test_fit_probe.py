"""scripts/fit_probe.py from config files to a head that can be attached."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image
from safetensors.torch import save_file

from saintprune import wiring, wiring_calibration
from saintprune.calibration.targets import Target
from saintprune.config import compose_run
from saintprune.errors import SaintpruneError
from saintprune.models import heads
from saintprune.models.heads import attach
from saintprune.models.timm_net import load

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "fit_probe.py"
TINY = [
    "model.net.architecture=test_vit", "model.net.weights=hub", "model.net.img_size=64", "hardware=cpu",
    "hardware.num_workers=0", "hardware.batch_size=4",
]  # fmt: skip


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fit_probe", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """A file of the tiny network's weights, beside 20 images of two classes in train/ and as many in val/."""
    for split in ("train", "val"):
        for name, brightness in (("dark", 0), ("light", 150)):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(10):
                Image.new("L", (64, 64), color=brightness + 10 * index).save(tmp_path / split / name / f"{index}.png")
    path = tmp_path / "tiny.safetensors"
    save_file(load("test_vit", pretrained=False).net.state_dict(), path)
    return str(path)


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fit_probe.py", *arguments])
    return script.main()


def test_a_fitted_head_can_be_attached(
    script: ModuleType, tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [f"dataset.path={tmp_path / 'val'}", f"dataset.train_path={tmp_path / 'train'}"]
    overrides = [*TINY, f"model.checkpoint={weights}", *paths]
    names = ["--model", "vit_s14", "--dataset", "imagefolder", "--out", str(tmp_path)]
    assert run(script, monkeypatch, *names, *overrides) == 0
    record = json.loads((tmp_path / "vit_s14-imagefolder.json").read_text())
    assert record["num_train"] == record["num_test"] == 20 and record["test_accuracy"] > 0.8
    assert record["features"]["sha256"] and record["classes"] == ["dark", "light"]
    assert record["hardware"]["precision"] == "32-true" and record["config"]["dataset"]["path"] == str(tmp_path / "val")
    loaded = load("test_vit", checkpoint=weights, img_size=64, num_classes=0)
    head = str(tmp_path / "vit_s14-imagefolder.safetensors")
    classes = ("dark", "light")
    assert attach(loaded, head, model="vit_s14", dataset="imagefolder", classes=classes).num_classes == 2
    assert run(script, monkeypatch, *names, "--held-out", "4", *overrides) == 0
    record = json.loads((tmp_path / "held_out" / "vit_s14-imagefolder.json").read_text())
    assert (record["num_train"], record["held_out"], record["num_test"]) == (16, 4, 20)
    assert run(script, monkeypatch, *names, "--held-out", "20", *overrides) == 1


def test_overrides_are_those_of_a_run(
    script: ModuleType, tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(script.probe, "choose_l2", lambda features, labels: seen.append(features) or (0.1, {0.1: 0.5}))
    paths = [f"dataset.path={tmp_path / 'val'}", f"dataset.train_path={tmp_path / 'train'}"]
    names = ["--model", "vit_s14", "--dataset", "imagefolder", *paths, "--out", str(tmp_path), "--images", "5"]
    precision = "hardware.precision=bf16-true"
    assert run(script, monkeypatch, *names, *TINY, f"model.checkpoint={weights}", "seed=3", precision) == 0
    record = json.loads((tmp_path / "vit_s14-imagefolder.json").read_text())
    assert record["num_train"] == 8, "two batches of the hardware's size"
    assert record["config"]["seed"] == 3 and record["hardware"]["precision"] == "bf16-true"
    assert (seen[0] == seen[0].bfloat16()).all()


def test_the_command_that_a_message_gives_makes_the_head_that_a_run_finds(
    script: ModuleType, tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "COMMITTED", tmp_path / "heads")
    images = [f"dataset.path={tmp_path / 'val'}", f"dataset.train_path={tmp_path / 'train'}", "dataset.name=cells"]
    wanted = [*TINY, f"model.checkpoint={weights}", "dataset=imagefolder", *images, "pruning=none"]
    with pytest.raises(SaintpruneError, match="none was fitted for the 2 of dataset cells") as error:
        wiring.build(*compose_run(wanted))
    python, path, *arguments = shlex.split(str(error.value).partition("fit one: ")[2])
    assert (python, path) == ("python", "scripts/fit_probe.py") and "imagefolder" in arguments
    assert run(script, monkeypatch, *arguments, *TINY) == 0
    parts = wiring.build(*compose_run([*wanted, "calibration.head=held_out"]))
    assert parts.model.source["head"]["file"] == "vit_s14-cells.safetensors"
    held_out = r"--dataset imagefolder .*dataset\.name=cells .*dataset\.train_path=.* --held-out 256"
    with pytest.raises(SaintpruneError, match=held_out):
        wiring_calibration.calibrate(parts, Target("flops", 0.5))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "vit_s15", "--dataset", "elpv"], "Could not find 'model/vit_s15'"),
        (["--model", "vit_s14", "--dataset", "elpv", "no_such=key"], "Could not override 'no_such'"),
        (["--model", "vit_s14", "--dataset", "elpv", "hardware.batch=4"], "hardware.batch"),
    ],
)
def test_mistakes_are_explained(
    arguments: list[str],
    words: str,
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(script, monkeypatch, *arguments) == 1
    said = capsys.readouterr().err
    assert words in said and said.startswith("error: ") and said.count("\n") == 1


def test_without_labels_or_known_weights_there_is_no_head(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["--model", "vit_s14", "--dataset", "synthetic"]
    assert run(script, monkeypatch, *names, *TINY, "model.pretrained=false") == 1
    assert "a head needs identified weights and labels" in capsys.readouterr().err
