"""scripts/fit_probe.py from config files to a head that can be attached."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image
from safetensors.torch import save_file

from saintprune.models.heads import attach
from saintprune.models.timm_net import load

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "fit_probe.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fit_probe", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fit_probe.py", *arguments])
    return script.main()


def test_a_fitted_head_can_be_attached(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "val"):
        for name, brightness in (("dark", 0), ("light", 150)):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(10):
                Image.new("L", (64, 64), color=brightness + 10 * index).save(tmp_path / split / name / f"{index}.png")
    weights = str(tmp_path / "tiny.safetensors")
    save_file(load("test_vit", pretrained=False).net.state_dict(), weights)
    overrides = [
        "model.net.architecture=test_vit",
        "model.net.weights=hub",
        "model.net.img_size=64",
        f"model.checkpoint={weights}",
        f"dataset.path={tmp_path / 'val'}",
        f"dataset.train_path={tmp_path / 'train'}",
    ]
    names = ["--model", "vit_s14", "--dataset", "imagefolder", "--out", str(tmp_path)]
    assert run(script, monkeypatch, *names, *overrides) == 0
    record = json.loads((tmp_path / "vit_s14-imagefolder.json").read_text())
    assert record["num_train"] == record["num_test"] == 20 and record["test_accuracy"] > 0.8
    assert record["features"]["sha256"] and record["classes"] == ["dark", "light"]
    loaded = load("test_vit", checkpoint=weights, img_size=64, num_classes=0)
    head = str(tmp_path / "vit_s14-imagefolder.safetensors")
    classes = ("dark", "light")
    assert attach(loaded, head, model="vit_s14", dataset="imagefolder", classes=classes).num_classes == 2
    assert run(script, monkeypatch, *names, "--held-out", "4", *overrides) == 0
    record = json.loads((tmp_path / "held_out" / "vit_s14-imagefolder.json").read_text())
    assert (record["num_train"], record["held_out"], record["num_test"]) == (16, 4, 20)
    assert run(script, monkeypatch, *names, "--held-out", "20", *overrides) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "vit_s15", "--dataset", "elpv"], "there is no conf/model/vit_s15.yaml; there are: clip_l14_336"),
        (["--model", "vit_s14", "--dataset", "synthetic"], "a head needs identified weights and labels"),
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
    assert words in capsys.readouterr().err
