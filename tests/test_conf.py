"""Every YAML composes, and every node with a `_target_` binds to its class without being built."""

import inspect
from dataclasses import fields, is_dataclass

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from plans import plan_of
from saintprune.config import config_dir, register
from saintprune.data.text import TextData
from saintprune.data.vqa import VQAData

GIVEN = {"model.adapter": {"net"}, "logger": {"save_dir"}}  # arguments that wiring adds to a node when it builds it
FILES = sorted(
    path.relative_to(config_dir()).with_suffix("").as_posix()
    for path in config_dir().glob("*/**/*.yaml")
    if path.parent.name != "stages"  # found by task=analyze, read by plans, no group of Hydra's
    and "hydra" not in path.relative_to(config_dir()).parts  # launchers and sweepers: tests/test_sweep.py
)


def given(path, target):
    """The arguments that wiring adds to the node at a path."""
    if path != "dataset":
        return GIVEN.get(path, set())
    loader = {"batch_size", "num_workers"}
    if issubclass(target, TextData):
        return loader | {"tokenizer"}
    return loader | ({"processor", "prompt"} if issubclass(target, VQAData) else {"transform", "input_size"})


def override(file):
    group, _, choice = file.partition("/")
    if group != "stage":
        return [f"{group}={choice}"]
    site = site_of(file)
    base = {"vision": "saint", "language": "saint_language", "projector": "random_projector"}[site]
    return [f"pruning={base}", f"stage@pruning.stages.{site}={choice}"]


def site_of(stage):
    """The site that a stage's file is named after."""
    return stage.rpartition("_")[2]


def composed(*overrides):
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("config", list(overrides))


def targets(node, path=""):
    """Yield (path, node) of every node with a `_target_`."""
    if isinstance(node, ListConfig):
        for number, item in enumerate(node):
            yield from targets(item, f"{path}.{number}")
    elif isinstance(node, DictConfig):
        if "_target_" in node:
            yield path, node
        for key in node:
            yield from targets(node[key], f"{path}.{key}" if path else str(key))


@pytest.mark.parametrize("file", FILES)
def test_composes_and_binds(file):
    cfg = composed(*override(file))
    OmegaConf.resolve(cfg)
    found = list(targets(cfg))
    assert {"model.net", "model.adapter", "dataset", "pruning", "hardware", "logger", "benchmark", "analysis"} <= {
        p for p, _ in found
    }
    for path, node in found:
        target = get_object(node["_target_"])
        keys = {key for key in node if key != "_target_"} | given(path, target)
        inspect.signature(target).bind(**dict.fromkeys(keys))


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("stage/")])
def test_a_stage_shows_every_knob_of_its_method(file):
    """What a run did must be readable from `--cfg job`: no default hides in code."""
    stage = composed(*override(file)).pruning.stages[site_of(file)]
    assert stage.site == site_of(file)
    method = stage.method
    target = get_object(method["_target_"])
    assert is_dataclass(target)
    assert {field.name for field in fields(target)} == {key for key in method if key != "_target_"}


def test_files_are_short():
    for file in FILES:
        if not file.startswith("pruning/vit_"):  # written by task=calibrate
            lines = (config_dir() / f"{file}.yaml").read_text().splitlines()
            assert len(lines) <= 15, f"{file}.yaml has {len(lines)} lines"


def test_an_unknown_key_is_refused():
    with pytest.raises(Exception, match="modle"):
        composed("modle=vit_s14")


def test_any_pruning_can_answer_what_another_defers():
    plan = plan_of("tome", "+pruning.defer=0.4", "+pruning@pruning.second=ward_cascade")
    first, second = plan.looks
    assert (first.defer, second) == (0.4, plan_of("ward_cascade"))
    assert plan_of("glance").second is None and plan_of("glance_then_ward").second == plan_of("ward_cascade")
