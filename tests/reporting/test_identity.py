"""The identity of a run: what changes it, and what does not."""

import copy
import os

import pytest

from saintprune.config import compose_run
from saintprune.plan import NAMED
from saintprune.reporting import identity as module
from saintprune.reporting.identity import determinants, identity, names_stages, source_digest
from saintprune.wiring import identity_of

RUN = ["model=vit_s14", "dataset=synthetic", "hardware=cpu", "pruning=tome"]
CONFIG = {
    "task": "evaluate",
    "model": {"net": {"checkpoint": None}},
    "dataset": {"path": None},
    "hardware": {},
    "logger": {"name": "csv"},
    "objectives": ["agreement"],
    "calibration": {"target": None, "samples": 64, "save_as": None},
    "analysis": {"samples": 4},
    "seed": 0,
}


def known_as(*overrides):
    return identity_of(compose_run([*RUN, *overrides])[0])


@pytest.mark.parametrize(
    "override",
    [
        "logger=wandb", "hardware.num_workers=5", "hardware.name=mine",
        "objectives=[agreement]", "calibration.samples=3", "analysis.samples=3", "calibration.save_as=x",
        "hardware=auto",
    ],
)  # fmt: skip
def test_what_changes_no_figure_does_not_count(override, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert known_as(override) == known_as()


@pytest.mark.parametrize(
    "override",
    [
        "seed=1", "hardware.batch_size=3", "hardware.precision=bf16-true", "hardware.threads=3", "dataset.size=3",
        "pruning=tofu", "pruning.stages.vision.method.r=3", "model.net.img_size=98", "task=benchmark",
        "benchmark.pairs=7", "calibration.target=flops:0.5",
    ],
)  # fmt: skip
def test_what_changes_a_figure_counts(override):
    assert known_as(override) != known_as()


def test_settings_count_for_the_tasks_that_read_them():
    assert known_as("task=analyze", "analysis.samples=3") != known_as("task=analyze")
    target = "calibration.target=flops:0.5"
    assert known_as(target, "calibration.samples=3") != known_as(target)
    assert known_as(target, "calibration.save_as=x") == known_as(target)
    assert known_as(target, "task=calibrate", "calibration.save_as=x") != known_as(target, "task=calibrate")


def test_a_file_counts_by_its_content_and_a_folder_by_its_place(tmp_path, monkeypatch):
    def of(checkpoint=None, path=None):
        config = copy.deepcopy(CONFIG)
        config["model"]["net"]["checkpoint"], config["dataset"]["path"] = checkpoint, path
        return identity(config, {})

    one, other = tmp_path / "one.pt", tmp_path / "other.pt"
    one.write_bytes(b"weights")
    other.write_bytes(b"weights")
    assert of(str(one)) == of(str(other)) != of("absent.pt")
    before = of(str(one))
    one.write_bytes(b"others.")
    os.utime(one, ns=(0, 0))
    assert of(str(one)) != before
    monkeypatch.chdir(tmp_path)
    assert of(path=".") == of(path=str(tmp_path)) != of(path=str(tmp_path.parent))


def test_code_versions_and_device_count(monkeypatch):
    before = identity(CONFIG, {"accelerator": "cpu"})
    assert identity(CONFIG, {"accelerator": "cuda"}) != before
    monkeypatch.setattr(module, "package_versions", lambda: {"torch": "another"})
    assert identity(CONFIG, {"accelerator": "cpu"}) != before
    monkeypatch.undo()
    monkeypatch.setattr(module, "source_digest", lambda: "another")
    assert identity(CONFIG, {"accelerator": "cpu"}) != before
    assert source_digest() == source_digest()


def test_packaged_weights_count(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PACKAGE", tmp_path)
    head = tmp_path / "assets" / "heads" / "net.safetensors"
    head.parent.mkdir(parents=True)
    found = []
    for weights in (b"fitted", b"refitted"):
        head.write_bytes(weights)
        found.append(source_digest.__wrapped__())
    assert found[0] != found[1]


def test_the_file_of_the_stages_counts_where_a_plan_names_one(tmp_path):
    for layers, named in (("aligner", True), ("all", False), ([1], False)):
        assert names_stages({"pruning": {"stages": {"vision": {"layers": layers}}}}, NAMED) is named
    assert not names_stages({"pruning": {}}, NAMED)
    second = {"stages": {"vision": {"layers": "all"}}, "second": {"stages": {"vision": {"layers": "aligner"}}}}
    assert names_stages({"pruning": second}, NAMED)
    found = tmp_path / "stages.yaml"
    before = identity(CONFIG, {}, found)
    found.write_text("boundaries")
    assert identity(CONFIG, {}, found) != before


def test_records_from_before_a_group_was_added_are_known():
    config = {"task": "evaluate", "seed": 0, "calibration": {"target": None, "samples": 64}}
    assert determinants(config) == determinants({**config, "analysis": {"samples": 1}, "objectives": ["agreement"]})
