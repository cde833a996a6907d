"""The jobs of a sweep without a process: what is skipped, what fails, which launchers there are."""

import csv
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from saintprune import launching, wiring
from saintprune.cli import RunCallback
from saintprune.config import compose_run, config_dir
from saintprune.errors import NotForThisModelError, SaintpruneError
from saintprune.files import locked
from saintprune.launching import refuse_launch, varied_keys
from saintprune.reporting.records import RunRecord
from saintprune.reporting.sweep import (
    Failure,
    failures,
    forget_failures,
    keep_varied,
    kept_varied,
    left_out,
    summarise,
)
from saintprune.wiring_sweep import Job, objective_values, run_searched

DELTA = {"accuracy": None, "speedup": 1.5, "speedup_ci95": [1.4, 1.6], "gflops_ratio": 0.5}
ARM = {"accuracy": None, "tokens_per_layer": [4.0], "throughput": 1.0, "gflops": 1.0}
RECORD = RunRecord("evaluate", "net", "noise", "tome", 8, ARM, ARM, DELTA, agreement=0.75)
YAMLS = sorted((config_dir() / "hydra").glob("*/*.yaml"))


@pytest.fixture
def ran(monkeypatch):
    """Jobs whose identity is their config, and that only write a record; the list of those that ran."""
    done = []

    def run(cfg, folder, names, sweep):
        done.append(cfg)
        if cfg == "bad":
            raise SaintpruneError("layers has [99], but the network has 12 blocks")
        if cfg.startswith("language"):
            raise NotForThisModelError("a tower alone")
        if cfg == "broken":
            raise RuntimeError("out of memory\nmore of it")
        record = RunRecord(**{**RECORD.__dict__, "identity": cfg})
        record.write(folder / "metrics.json")
        return record

    monkeypatch.setattr(wiring, "identity_of", lambda cfg: cfg)
    monkeypatch.setattr(wiring, "run", run)
    return done


def job(sweep, number, name):
    folder = sweep / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    return Job(name, {}, [f"x={name}", "seed=0"], folder, sweep)


def test_what_is_recorded_under_any_number_is_not_run_again(tmp_path, ran, capsys):
    for number, name in enumerate("ab"):
        run_searched(job(tmp_path, number, name))
    for number, name in enumerate("cab"):
        run_searched(job(tmp_path, 7 + number, name))
    assert ran == ["a", "b", "c"]
    assert f"{tmp_path}/0/metrics.json: recorded already" in capsys.readouterr().out
    assert {path.parent.name for path in tmp_path.glob("*/metrics.json")} == {"0", "1", "7"}


def test_half_a_record_counts_as_none_and_drafts_are_swept_away(tmp_path, ran):
    one = job(tmp_path, 0, "a")
    (one.folder / "metrics.json").write_text('{"schema_version": 1, "iden')
    (one.folder / ".metrics.json.7.tmp").write_text("{")
    run_searched(one)
    assert ran == ["a"] and RunRecord.read(one.folder / "metrics.json").identity == "a"
    assert list(one.folder.iterdir()) == [one.folder / "metrics.json"]


def test_a_failure_is_kept_and_told_in_one_line(tmp_path, ran):
    assert run_searched(job(tmp_path, 0, "bad")) is None
    assert run_searched(job(tmp_path, 1, "broken")) is None
    run_searched(job(tmp_path, 2, "good"))
    mistake, defect = failures(tmp_path).values()
    assert mistake.line(["x"]) == "x=bad: layers has [99], but the network has 12 blocks"
    assert defect.line(["x"]) == "x=broken: RuntimeError: out of memory"
    assert mistake.traceback is None and "Traceback" in defect.traceback
    forget_failures(tmp_path)
    assert failures(tmp_path) == {} and (tmp_path / "2" / "metrics.json").is_file()


def test_prunings_for_other_models_are_told_together_and_are_no_failures(tmp_path, ran):
    for number, name in enumerate(["language_a", "good", "language_b"]):
        run_searched(job(tmp_path, number, name))
    found = failures(tmp_path)
    assert [failure.fits for failure in found.values()] == [False, False]
    assert left_out(found.values(), ["x"]) == ["left out (2): a tower alone: x=language_a, x=language_b"]
    assert left_out([Failure(["x=bad"], "no")], ["x"]) == [] and summarise(tmp_path) == 1


def test_a_job_is_named_by_all_its_overrides_where_the_sweep_varies_none():
    assert Failure(["a=1", "b=2"], "no").line([]) == "a=1 b=2: no"
    assert Failure([], "no").line([]) == "the only job: no"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a POSIX lock")
def test_a_lock_is_waited_for_and_ends_with_its_process(tmp_path):
    holder = "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.flock(f, 2); print('held', flush=True); input()"
    lock = tmp_path / "lock"
    process = subprocess.Popen(
        [sys.executable, "-c", holder, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    waited = []

    def release():
        waited.append("once")
        process.kill()

    lock.touch()
    with locked(lock, release):
        assert waited == ["once"] and process.wait() != 0
    process.stdin.close()
    process.stdout.close()


def test_the_table_is_in_the_order_of_the_jobs_and_counts_one_identity_once(tmp_path, ran, capsys):
    for number, name in ((10, "c"), (2, "b"), (0, "a")):
        RunRecord(**{**RECORD.__dict__, "pruning": f"plan_{name}", "identity": name}).write(
            tmp_path / f"{number}-abc" / "metrics.json"
        )
    RunRecord(**{**RECORD.__dict__, "pruning": "plan_twin", "identity": "a"}).write(tmp_path / "11-abc/metrics.json")
    summarise(tmp_path)
    said = capsys.readouterr().out
    assert "3 runs" in said and "plan_twin" not in said
    assert said.index("plan_a") < said.index("plan_b") < said.index("plan_c")


def test_the_keys_that_vary_are_kept_for_the_jobs(tmp_path):
    assert kept_varied(tmp_path) == []
    keep_varied(tmp_path, ["hardware.batch_size"])
    keep_varied(tmp_path, ["+x", "hardware.batch_size"])
    assert kept_varied(tmp_path) == ["hardware.batch_size", "+x"]


def test_rows_of_a_sweep_are_named(tmp_path):
    for number, size in enumerate((1, 8)):
        more = {"pruning": f"ward hardware.batch_size={size}", "identity": str(size)}
        RunRecord(**{**RECORD.__dict__, **more}).write(tmp_path / f"{number}-abc" / "metrics.json")
    summarise(tmp_path)
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["ward hardware.batch_size=1", "ward hardware.batch_size=8"]
    assert [row["method"] for row in rows] == ["ward", "ward"]


def test_the_end_of_a_sweep_tells_failures_even_where_it_cannot_be_summed_up(tmp_path, ran, capsys):
    run_searched(job(tmp_path, 0, "bad"))
    RECORD.write(tmp_path / "1" / "metrics.json")
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "metrics.json").write_text('{"schema_version": 1, "of_another": "version"}')
    capsys.readouterr()
    hydra = {"sweep": {"dir": str(tmp_path)}, "overrides": {"task": ["x=bad,good"]}, "sweeper": {}}
    with pytest.raises(SystemExit) as end:
        RunCallback().on_multirun_end(OmegaConf.create({"hydra": hydra}))
    failed, broken = capsys.readouterr().err.splitlines()
    assert end.value.code == 1 and failed == "failed: x=bad: layers has [99], but the network has 12 blocks"
    assert broken.startswith(f"error: the sweep in {tmp_path} cannot be summed up: {tmp_path}/2/metrics.json is only")


def test_a_search_reads_figures_of_the_record(tmp_path, ran):
    assert objective_values(RECORD, ["agreement", "delta.speedup"]) == (0.75, 1.5)
    with pytest.raises(SaintpruneError, match=r"'delta.speedupp', which .* \(did you mean 'delta.speedup'\?\)"):
        objective_values(RECORD, ["delta.speedupp"])
    assert run_searched(job(tmp_path, 0, "a"), ("agreement",)) == (0.75,)
    assert run_searched(job(tmp_path, 0, "a"), ("agreement",)) == (0.75,), "also of a record that was there"
    assert run_searched(job(tmp_path, 0, "a"), ("pruned.accuracy",)) is None, "and a figure that is not, is a failure"
    assert "pruned.accuracy" in json.loads((tmp_path / "0/failed.json").read_text())["error"]


def test_folders_of_jobs_are_told_apart_by_overrides():
    def subdir(*overrides):
        cfg = OmegaConf.create(
            {
                "hydra": {
                    "job": {"num": 3},
                    "overrides": {"task": list(overrides)},
                    "dir": "${hydra.job.num}-${short_hash:${hydra.overrides.task}}",
                }
            }
        )
        return cfg.hydra.dir

    compose_run(["dataset=synthetic"])  # registers the resolver
    assert subdir("a=1", "b=2") == subdir("a=1", "b=2") != subdir("a=1", "b=3")
    assert subdir("a=1").startswith("3-") and len(subdir("a=1")) == len("3-") + 6


# --- launchers and sweepers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_a_launcher_is_what_its_plugin_takes(path):
    node = OmegaConf.load(path)
    assert len(path.read_text().splitlines()) <= 15
    package = node._target_.split(".")[1]
    assert package in launching.EXTRAS
    if find_spec("hydra_plugins") is None or find_spec(f"hydra_plugins.{package}") is None:
        pytest.skip(f"{package} is not installed")
    config = pytest.importorskip(f"hydra_plugins.{package}.{'_config' if 'ray' in package else 'config'}")
    known = {
        "local_joblib": "JobLibLauncherConf",
        "local_submitit": "LocalQueueConf",
        "slurm": "SlurmQueueConf",
        "ray_cluster": "RayLauncherConf",
        "pareto": "OptunaSweeperConf",
    }[path.stem]
    schema = OmegaConf.structured(getattr(config, known))
    assert set(node) - {"_target_"} <= set(schema) and node._target_ == schema._target_


def test_no_config_is_called_like_one_of_a_plugin():
    """Hydra would validate it against the plugin's own, with a warning, or refuse it."""
    theirs = {"joblib", "submitit_local", "submitit_slurm", "ray", "ray_aws", "optuna", "basic"}
    assert not theirs & {path.stem for path in YAMLS}


def test_what_cannot_be_launched_is_told_before_anything_runs(monkeypatch):
    basic = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "max_batch_size": None}
    local = {"_target_": launching.ALL_AT_ONCE}
    monkeypatch.setattr(launching, "_installed", lambda package: True)
    with pytest.raises(SaintpruneError, match="max_batch_size=2"):
        refuse_launch(local, basic)
    refuse_launch(local, {**basic, "max_batch_size": 2})
    refuse_launch(local, {"_target_": "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"})
    monkeypatch.setattr(launching, "_installed", lambda package: False)
    with pytest.raises(SaintpruneError, match=r"hydra/launcher needs RayLauncher: pip install 'saintprune\[ray\]'"):
        refuse_launch({"_target_": "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"}, basic)


def test_the_keys_that_a_sweep_varies():
    hydra_config = SimpleNamespace(
        overrides=SimpleNamespace(task=["a=1", "b=1,2", "+c=range(3)", "d=[1,2]"]), sweeper={"params": {"e": "1,2"}}
    )
    assert varied_keys(hydra_config) == ["b", "+c", "e"]
