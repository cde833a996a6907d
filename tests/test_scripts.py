"""The scripts of studies, each on a tiny network: what they record, and that mistakes are one line."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from saintprune import study_script, wiring
from saintprune.config import compose_run
from saintprune.errors import SaintpruneError
from saintprune.evaluation import timing
from saintprune.study_script import open_images, run_script, write_study
from small_run import NETWORK

SCRIPTS = Path(__file__).parents[1] / "scripts"
TINY = [
    *NETWORK, "dataset=synthetic", "dataset.size=8", "hardware=cpu",
    "hardware.batch_size=4", "hardware.num_workers=0",
]  # fmt: skip
STUDIES = ("ablate_ward", "choose_margin", "choose_second", "trace_cost", "stage_error_rates")


def script(name: str, monkeypatch: pytest.MonkeyPatch, **constants: Any) -> ModuleType:
    """Return a script as a module, with some of its constants changed."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # where its dataclasses look for their types
    spec.loader.exec_module(module)
    for constant, value in constants.items():
        assert hasattr(module, constant)
        monkeypatch.setattr(module, constant, value)
    return module


def recorded(module: ModuleType, folder: Path, *arguments: str) -> dict[str, Any]:
    """Do the work of a script of a study and return its record."""
    path = folder / "record.json"
    module.main(path, list(arguments))
    return json.loads(path.read_text())


@pytest.fixture
def labelled(tmp_path: Path) -> list[str]:
    """The overrides that choose 20 images of two classes."""
    for name, brightness in (("dark", 0), ("light", 150)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("L", (64, 64), brightness + 10 * number).save(tmp_path / "images" / name / f"{number}.png")
    folder = tmp_path / "images"
    return [*(item for item in TINY if "dataset" not in item), "dataset=imagefolder", f"dataset.path={folder}",
            f"dataset.train_path={folder}"]  # fmt: skip


def check_what_was_run(record: dict[str, Any], pruning: str) -> None:
    assert record["what"] and record["model"] == "vit_s14" and record["pruning"] == pruning
    assert record["config"]["hardware"]["batch_size"] == record["hardware"]["batch_size"] == 4
    assert record["sources"]["model"]["weights"] == "random" and {"seed", "commit", "versions"} <= set(record)


def test_the_parts_of_ward_are_measured(tmp_path, monkeypatch):
    module = script("ablate_ward", monkeypatch, IMAGES=4)
    monkeypatch.setattr(module, "PLACES", dict(list(module.PLACES.items())[:1]))
    monkeypatch.setattr(module, "BUDGETS", {0.67: {"ward": module.ward()}})
    record = recorded(module, tmp_path, *TINY)
    check_what_was_run(record, "none")
    place, ward = record["variants"]
    assert record["images"] == 4 and place["schedule"] is None and place["flops_ratio"] < 1
    assert ward["variant"] == "ward" and ward["flops_ratio"] == pytest.approx(0.67, abs=0.03)


@pytest.mark.parametrize(("pruning", "first"), [("ward", {"flops"}), ("glance_then_ward", {"resize", "drop"})])
def test_margins_of_a_first_pass_are_compared(tmp_path, monkeypatch, capsys, pruning, first):
    few = {"IMAGES": 8, "FIRST": (0.6,), "SIZES": (0.5,), "DROPS": (0.9,), "MARGINS": (0.0, 1.0)}
    record = recorded(script("choose_margin", monkeypatch, **few), tmp_path, *TINY, f"pruning={pruning}")
    check_what_was_run(record, pruning)
    none, all_of_them = record["rows"]
    assert first <= set(none) and none["deferred"] == 0 and 0 < none["cost"] < 1
    assert (all_of_them["deferred"], all_of_them["agreement"]) == (1.0, 1.0)
    assert "100.0%" in capsys.readouterr().out


def test_second_answers_are_compared_in_the_precision_of_the_hardware(tmp_path, monkeypatch, labelled, capsys):
    few = {"BUDGETS": (1.5,), "MARGINS": (0.2,), "STEPS": 3, "CORRECTED_ON": (None,)}
    module = script("choose_second", monkeypatch, **few)
    monkeypatch.setattr(module.probe, "choose_l2", lambda features, labels: (0.1, {}))
    record = recorded(module, tmp_path, *labelled, "pruning=glance_then_ward", "hardware.precision=bf16-true")
    check_what_was_run(record, "glance_then_ward")
    assert record["hardware"]["precision"] == "bf16-true" and record["images"] == 20
    assert [(row["second"], row["corrected_on"], row["second_margin"]) for row in record["rows"]] == [
        ("unpruned", 0, 0.0), ("pruned", 0, 0.0), ("pruned", 0, 0.2), ("unpruned", None, 0.0), ("pruned", None, 0.2),
    ]  # fmt: skip
    assert "corrected on all" in capsys.readouterr().out
    with pytest.raises(SaintpruneError, match="dataset=synthetic has no labels to fit heads on"):
        recorded(module, tmp_path, *TINY, "pruning=glance_then_ward")


def test_the_cost_of_a_trace_is_timed_by_the_clock_of_the_device(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(timing, "clock", lambda device: asked.append(device) or len(asked) ** 2)
    module = script("trace_cost", monkeypatch, IMAGES=4, PAIRS=2, FEW=2, MANY=8)
    record = recorded(module, tmp_path, *TINY)
    check_what_was_run(record, "none")
    assert asked == [torch.device("cpu")] * 2 * 2 * (1 + 2), "before and after each pass, the first of both to warm up"
    assert (record["images"], record["batch_size"], record["pairs"]) == (4, 4, 2)
    few, many = record["peak_memory_mib"].items()
    assert (few[0], many[0]) == ("4", "8") and 0 < few[1] <= many[1], "less than a batch is one"


def test_rates_of_error(tmp_path, monkeypatch):
    module = script("stage_error_rates", monkeypatch, DEPTHS=(12,), NOISES=(0.05,), DRAWS=19, SHAPES=["flat"])
    record = recorded(module, tmp_path, "1")
    planted, flat = record["rates"]
    assert record["seeds"] == 1 and planted["within_one_layer"] == planted["yes"] == 1.0 and flat["no"] == 1.0
    for seeds in ("0", "many", "1 2"):
        with pytest.raises(SaintpruneError, match=f"SEEDS is {seeds}, but must be one number of at least 1"):
            recorded(module, tmp_path, *seeds.split(" "))


def test_answers_in_batches_of_several_sizes(monkeypatch, capsys):
    script("batch_invariance", monkeypatch).main(["4", "3", *TINY, "pruning=none"])
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert lines[0] == "batches of 4: 0 of 8 answers differ from batches of 4"
    assert re.fullmatch(r"batches of 3: \d of 8 answers differ from batches of 4", lines[1])


@pytest.mark.slow
def test_curves_are_judged_again(tmp_path, monkeypatch, capsys):
    few = ["samples=8", "twins=1", "draws=19", "sensitivity=0", "pictures=0", "save=false"]
    cfg, names = compose_run([*TINY, "task=analyze", "pruning=none", *(f"analysis.{item}" for item in few)])
    before = wiring.run(cfg, tmp_path, names)
    assert before.analysis is not None and (tmp_path / "analysis.html").is_file()
    script("judge_again", monkeypatch).main(tmp_path)
    after = json.loads((tmp_path / "metrics.json").read_text())["analysis"]
    assert after["parts"] == json.loads(json.dumps(before.analysis["parts"])) and "judged" in after
    assert not (tmp_path / "analysis.html").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"config": {}}'])
def test_a_broken_record_is_not_judged(tmp_path, monkeypatch, text):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(SaintpruneError, match=r"metrics\.json is no record of task=analyze .*: run it again"):
        script("judge_again", monkeypatch).main(tmp_path)


def ended(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> str:
    """Run a script as a program and return what it exits with."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
    return str(end.value.code)


@pytest.mark.parametrize("name", [*STUDIES, "batch_invariance", "judge_again"])
def test_without_arguments_a_script_says_how_it_is_called(monkeypatch, name):
    assert f"python scripts/{name}.py " in ended(monkeypatch, name)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("choose_margin", ["pruning=ward"], "python scripts/choose_margin.py RECORD.json"),
        ("choose_margin", ["r.json", "model=vit_s"], "error: cannot compose .*model/vit_s"),
        ("choose_second", ["r.json", *TINY, "pruning=ward"], "error: the plan has no second to compare"),
        ("stage_error_rates", ["r.json", "few"], "error: SEEDS is few"),
        ("batch_invariance", ["4", "model=vit_s"], "error: cannot compose .*model/vit_s"),
        ("batch_invariance", ["0", *TINY], "python scripts/batch_invariance.py SIZE"),
        ("judge_again", ["no_such_folder"], r"error: no_such_folder/metrics\.json is no record of task=analyze"),
    ],
)
def test_a_mistake_ends_with_one_line(monkeypatch, name, arguments, message):
    said = ended(monkeypatch, name, *arguments)
    assert re.search(message, said) and (said.startswith("error: ") == ("\n" not in said))


def test_models_that_read_text_are_refused(monkeypatch):
    cfg = SimpleNamespace(model=SimpleNamespace(name="vlm"))
    monkeypatch.setattr(study_script, "open_run", lambda *overrides: SimpleNamespace(model=object(), cfg=cfg))
    with pytest.raises(SaintpruneError, match="model=vlm reads text, but this script is for networks of images alone"):
        open_images()


def test_what_is_no_number_is_not_recorded(tmp_path, monkeypatch):
    parts, path = open_images(*TINY, "pruning=none"), tmp_path / "record.json"
    with pytest.raises(SaintpruneError, match=r"a figure is not a finite number, so .* is not written"):
        write_study(path, parts, "a test", rows=[{"cost": float("nan")}])
    assert not path.exists()
    monkeypatch.setattr(sys, "argv", ["", str(path)])
    run_script(lambda record, overrides: write_study(record, parts, "a test", rows=overrides), "usage")
    assert json.loads(path.read_text())["rows"] == []
