"""The experiments of claims: each composes, prunes layers that its model has, and stands beside what is published."""

from __future__ import annotations

import importlib.util
import itertools
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from transformers import AutoModelForImageTextToText

from saintprune.adapters.vlm import VLM
from saintprune.binding import make
from saintprune.config import compose_run, config_dir
from saintprune.models.vlm_configs import published_config
from saintprune.reporting.records import RunRecord

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted(path.stem for path in (config_dir() / "experiment").glob("*.yaml"))
GIVEN = {"imagenet1k": "DIR", "vqa_jsonl": "FILE"}


def script() -> Any:
    spec = importlib.util.spec_from_file_location("experiments_table", ROOT / "scripts" / "experiments_table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def published() -> list[dict[str, Any]]:
    return yaml.safe_load((ROOT / "docs" / "published.yaml").read_text())


@cache
def jobs(experiment: str) -> list[tuple[Any, dict[str, str]]]:
    """The composed config and the names of each job of an experiment's sweep."""
    content = yaml.safe_load((config_dir() / "experiment" / f"{experiment}.yaml").read_text())
    params = content.get("hydra", {}).get("sweeper", {}).get("params", {})
    choices = [[f"{key}={value}" for value in values.split(",")] for key, values in params.items()]
    return [compose_run([f"experiment={experiment}", *chosen]) for chosen in itertools.product(*choices)]


@cache
def network(name: str, architecture: str | None, repository: str | None) -> Any:
    """A model as large as published, without memory for its weights."""
    with torch.device("meta"):
        if repository is None:
            return timm.create_model(architecture)
        return AutoModelForImageTextToText.from_config(published_config(repository, None))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_job_prunes_layers_that_its_model_has(experiment):
    for cfg, _ in jobs(experiment):
        assert cfg.experiment == experiment
        net = network(cfg.model.name, cfg.model.net.get("architecture"), cfg.model.net.get("repository"))
        plan, adapter = make(cfg, "pruning"), make(cfg, "model.adapter", net=net)
        if isinstance(adapter, VLM):
            adapter.check(plan)
        else:
            assert {stage.site for stage in plan.stages.values()} == {"vision"}
            assert plan.at("vision", adapter.depth)


def test_every_experiment_stands_beside_what_is_published():
    assert sorted(entry["experiment"] for entry in published()) == EXPERIMENTS
    for entry in published():
        runs = {(cfg.model.name, names["pruning"].split(" ")[0]) for cfg, names in jobs(entry["experiment"])}
        for figure in entry["figures"]:
            parts = figure["here"].replace(" / ", " - ").split(" - ")
            for model, pruning, _ in (part.split(" ") for part in parts):
                assert (model, pruning.lstrip("!")) in runs, f"{entry['experiment']}: {figure['here']}"


def test_the_page_is_that_of_the_records(monkeypatch):
    page = script()
    monkeypatch.setattr(page.sys, "argv", ["", "--check"])
    page.main()


def record(pruning: str, accuracy: float, **more: Any) -> RunRecord:
    arms = {"baseline": {"accuracy": 0.88}, "pruned": {"accuracy": accuracy}}
    return RunRecord(
        task="evaluate", model="vit_h14", dataset="imagenet1k", pruning=pruning, num_samples=50_000, **arms,
        delta={"accuracy": accuracy - 0.88, "speedup": 2.01}, config={"experiment": "vit_h14_twice"}, **more,
    )  # fmt: skip


def test_records_fill_the_table(tmp_path, monkeypatch, capsys):
    page = script()
    monkeypatch.setattr(page, "RECORDS", tmp_path / "records")
    for number, (pruning, accuracy) in enumerate([("saint target=x", 0.874), ("tome", 0.866), ("random", 0.5)]):
        record(pruning, accuracy).write(tmp_path / "outputs" / str(number) / "metrics.json")
    page.keep([tmp_path / "outputs"])
    assert (tmp_path / "records" / "vit_h14_twice" / "vit_h14~saint.json").is_file()
    found = page.table(published(), tmp_path / "records")
    assert "| throughput | 2x | 2.01x |" in found and "| top-1, change in points | −0.6 | −0.6 |" in found
    assert "above the best other method | +0.8 | +0.8 |" in found and found.count("not run") > 20
    sensitivity = [
        {"method": method, "layer": layer, "agreement": 0.9 - 0.01 * layer}
        for method in ("random", "saint") for layer in range(4)
    ]  # fmt: skip
    records = {("vit_h14", "saint"): record("saint", 0.8, analysis={"sensitivity": sensitivity})}
    assert page.value("vit_h14 saint early_minus_late", records) == pytest.approx(0.02)
    assert page.value("vit_h14 saint no.such", records) is None
    records["vit_h14", "tome"] = record("tome", 0.88)
    minus, over = (f"vit_h14 saint delta.accuracy {sign} vit_h14 tome delta.accuracy" for sign in "-/")
    assert page.value(minus, records) == pytest.approx(-0.08), "nothing lost is a figure, too"
    assert page.value(over, records) is None
