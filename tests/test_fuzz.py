"""Random overrides, right and wrong, in this process: each is put together or ends with one clear line."""

import importlib.util
import sys
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location(
    "fuzz_overrides", Path(__file__).parents[1] / "scripts" / "fuzz_overrides.py"
)
fuzz = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = fuzz  # where its dataclasses look for their types
SPEC.loader.exec_module(fuzz)


def test_cases_are_the_same_for_the_same_seed():
    assert fuzz.cases(30, 7) == fuzz.cases(30, 7) != fuzz.cases(30, 8)


def test_no_override_ends_in_a_traceback():
    tried = {tuple(overrides): fuzz.try_case(overrides, run=False) for overrides in fuzz.cases(60, seed=11)}
    bad = {overrides: outcome for overrides, outcome in tried.items() if outcome.bad}
    assert not bad
    assert {outcome.kind for outcome in tried.values()} == {"built", "refused"}, "both happen"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("logger=1.5", "logger=1.5 names no file"),
        ("pruning=null", "pruning=None names no file"),
        ("~pruning", "takes away what every run needs"),
        ("~seed", "takes away what every run needs"),
        ("~model.name", "the config cannot be read: Key 'name'"),
        ("hardware.threads='a b'", "hardware.threads is 'a b', but must be int or null"),
        ("hardware.peak_tflops='${nothing}'", "Interpolation key 'nothing' not found"),
        ("dataset.seed=abc", "dataset.seed is 'abc', but must be int"),
        ("benchmark.max_seconds=.nan", "must be float or int"),
        ("benchmark.max_seconds=nan", "benchmark.max_seconds is nan"),
        ("model.adapter=3", "model.adapter is '3', but must say what to build"),
        ("pruning.stages=0", "stages is 0, but must name stages"),
        ("pruning.stages.vision.schedule=[a]", "must be Schedule or null"),
    ],
)
def test_each_mistake_has_its_line(override, message):
    outcome = fuzz.try_case([override], run=False)
    assert outcome.kind == "refused" and message in outcome.message and "\n" not in outcome.message


@pytest.mark.parametrize("override", ["hardware.threads=null", "benchmark.max_seconds=1", "seed=3", "logger=csv"])
def test_what_is_right_is_taken(override):
    assert fuzz.try_case([override], run=False) == fuzz.Outcome("built")


def test_what_is_wrong_in_the_program_is_noticed(monkeypatch):
    def broken(cfg, names):
        raise KeyError("x")

    monkeypatch.setattr(fuzz.wiring, "build", broken)
    assert fuzz.try_case(["seed=1"], run=False).kind == "crashed"
    monkeypatch.setattr(fuzz.wiring, "build", lambda cfg, names: fuzz._ring(0, None))
    assert fuzz.try_case(["seed=1"], run=False).kind == "hung"
