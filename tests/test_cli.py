"""The command line as a process: quick where nothing is loaded, one line and a code where something is wrong."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from saintprune.config import names_of
from small_run import NETWORK

ROOT = Path(__file__).parents[1]
SMALL = [
    *NETWORK, "dataset=synthetic", "dataset.size=8", "hardware=cpu",
    "hardware.batch_size=4", "hardware.num_workers=0", "benchmark.pairs=5", "hardware.threads=1",
]  # fmt: skip


def command(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *arguments], cwd=cwd, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("option", [["--cfg", "job"], ["--help"]])
def test_answers_without_loading_torch(option):
    told = [sys.executable, "-X", "importtime", "run.py", *option]
    done = subprocess.run(told, cwd=ROOT, capture_output=True, text=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0 and "saintprune.cli" in loaded
    assert not loaded & {"torch", "timm", "lightning", "transformers"}


def test_help_is_for_newcomers():
    shown = command("--help").stdout
    for words in ("python run.py", "pruning=", "task=calibrate", "-m"):
        assert words in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pruning=sant"], "Could not find 'pruning/sant'"),
        (["modle=vit_s14"], "modle"),
        (["pruning.stages.vision.method.treshold=1"], "Key 'treshold' is not in struct"),
        (["task=evaluat"], "Invalid value 'evaluat', expected one of"),
        (["task=calibrate"], "error: task=calibrate needs a target"),
    ],
)
def test_mistakes_end_with_a_code_and_no_traceback(arguments, message):
    done = command(*arguments)
    assert done.returncode != 0 and message in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        ([], "saint"),
        (["pruning.stages.vision.method.threshold=0.9"], "saint threshold=0.9"),
        (["++pruning.stages.vision.method.gamma=1.5"], "saint gamma=1.5"),
        (["stage@pruning.stages.vision=tome_vision"], "saint vision=tome_vision"),
        (["+pruning.defer=0.4", "+pruning@pruning.second=ward_cascade"], "saint defer=0.4 second=ward_cascade"),
        (["calibration.target=flops:0.5"], "saint target=flops:0.5"),
        (["calibration.correct=512", "calibration.samples=32", "calibration.head=held_out"], "saint correct=512"),
        (["~pruning.stages.language", "~stage@pruning.stages.vision"], "saint ~language ~vision"),
        (["hardware.batch_size=8", "seed=1"], "saint"),
    ],
)
def test_a_run_is_named_by_what_was_changed(overrides, label):
    found = SimpleNamespace(
        runtime=SimpleNamespace(choices={"dataset": "elpv", "pruning": "saint"}),
        overrides=SimpleNamespace(task=["model=vit_s14", *overrides]),
    )
    assert names_of(found) == {"dataset": "elpv", "pruning": label}


def test_a_job_is_named_by_the_keys_that_tell_it_from_others():
    given = ["pruning=saint", "hardware.batch_size=8", "+x=1", "calibration.samples=32", "calibration.target=flops:0.5"]
    found = SimpleNamespace(
        runtime=SimpleNamespace(choices={"dataset": "elpv", "pruning": "saint"}), overrides=SimpleNamespace(task=given)
    )
    varied = ["pruning", "hardware.batch_size", "+x", "calibration.target"]
    assert names_of(found, varied)["pruning"] == "saint hardware.batch_size=8 x=1 target=flops:0.5"


def test_a_sweep_ends_with_a_table(tmp_path):
    sweep = ["pruning=random,tome", "hardware.batch_size=4,2", f"hydra.sweep.dir={tmp_path}"]
    done = command("-m", *SMALL, "task=benchmark", *sweep)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "results.csv").open() as table:
        names = {row["name"] for row in csv.DictReader(table)}
    assert names == {f"{name} hardware.batch_size={size}" for name in ("random", "tome") for size in (4, 2)}
    assert "random" in done.stdout and "tome" in done.stdout
    assert len(list(tmp_path.glob("*/metrics.json"))) == 4
    assert not (tmp_path / "sweep.png").exists(), "there is no accuracy to draw"


def test_a_mistake_in_one_job_does_not_stop_the_others(tmp_path):
    layers = "pruning.stages.vision.layers=[99],[1]"
    done = command("-m", *SMALL, "pruning=random", layers, "task=benchmark", f"hydra.sweep.dir={tmp_path}")
    assert done.returncode != 0 and "has 99" in done.stderr and "Traceback" not in done.stderr
    assert [path.parent.name[:2] for path in tmp_path.glob("*/metrics.json")] == ["1-"]
    assert "failed: pruning.stages.vision.layers=[99]: stages.vision.layers has 99" in done.stderr
    assert done.stderr.endswith(f"the same command with hydra.sweep.dir={tmp_path}\n")
    assert "1 runs" in done.stdout, "the table is of what was recorded"


def test_a_sweep_leaves_out_what_is_for_other_models(tmp_path):
    sweep = ("-m", *SMALL, "task=benchmark", f"hydra.sweep.dir={tmp_path}")
    done = command(*sweep, "pruning=random,saint_language,fastv")
    reason = "stages.language.site is 'language', but VisionTransformer is a vision tower alone"
    assert done.returncode == 0, done.stderr
    assert f"left out (2): {reason}: only stages with site=vision apply: pruning=saint_language, " in done.stderr
    assert "failed" not in done.stderr and "1 runs" in done.stdout
    done = command("-m", *SMALL, "task=benchmark", f"hydra.sweep.dir={tmp_path / 'other'}", "pruning=fastv,dart")
    assert done.returncode == 1 and "left out (2)" in done.stderr


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root, to mount a small disk")
def test_a_full_disk_is_one_line(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("this machine lets nobody mount")
    try:
        done = command(*SMALL, f"hydra.run.dir={tmp_path}/run")
        left = [path for path in tmp_path.rglob("*") if path.is_file()]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert done.returncode == 1 and left == []
    assert done.stderr.startswith("error: cannot write to") and "No space left" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_place_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = command(*SMALL, f"hydra.run.dir={tmp_path}/file/run")
    assert done.returncode == 1 and done.stderr.startswith("error: cannot write to") and done.stderr.count("\n") == 1
