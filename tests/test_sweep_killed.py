"""A sweep that is killed in the middle and started again: every job is recorded once and whole."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
JOBS = [
    "model.net.architecture=vit_tiny_patch16_224", "model.net.weights=hub", "model.net.img_size=64",
    "model.pretrained=false", "model.head=none", "dataset=synthetic", "dataset.size=8", "hardware=cpu",
    "hardware.batch_size=4", "hardware.num_workers=0", "hardware.threads=1", "benchmark.pairs=5",
    "benchmark.max_seconds=0.1", "task=benchmark",
    "pruning=random,tome,tofu", "pruning.stages.vision.layers=[1],[2],[3],[4]",
]  # fmt: skip
LAUNCHERS = {
    "basic": [],
    "joblib": ["hydra/launcher=local_joblib", "hydra.launcher.n_jobs=2"],
    "submitit": ["hydra/launcher=local_submitit", "hydra.sweeper.max_batch_size=2"],
}
PATIENCE = 1200  # seconds; a process needs some to load torch


def start(folder, launcher):
    command = [sys.executable, "run.py", "-m", *JOBS, *LAUNCHERS[launcher], f"hydra.sweep.dir={folder}"]
    with open(folder / "said.txt", "ab") as said:
        return subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)


def records(folder):
    return {path: path.read_bytes() for path in folder.glob("*/metrics.json")}


def kill_after(folder, process, enough, whole_group):
    """Kill a sweep with SIGKILL as soon as some jobs are recorded; return their records."""
    end = time.monotonic() + PATIENCE
    while len(records(folder)) < enough:
        assert process.poll() is None and time.monotonic() < end, "the sweep ended before it could be killed"
        time.sleep(0.05)
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    return records(folder)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
@pytest.mark.parametrize("whole_group", [True, False], ids=["all processes", "the first process"])
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_killed_sweep_goes_on(tmp_path, launcher, whole_group):
    if launcher != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{launcher}_launcher")
    before = kill_after(tmp_path, start(tmp_path, launcher), 4, whole_group)
    assert 4 <= len(before) < 12
    again = start(tmp_path, launcher)
    assert again.wait(PATIENCE) == 0, (tmp_path / "said.txt").read_text()
    after = records(tmp_path)
    assert len(after) == 12, "every job is recorded, each in a folder of its own"
    assert len({json.loads(content)["identity"] for content in after.values()}) == 12
    assert all(after[path] == content for path, content in before.items()), "none was run twice"
    said = (tmp_path / "said.txt").read_text()
    logs = said + "".join(path.read_text() for path in tmp_path.glob(".submitit/**/*.out"))
    skipped = [path for path in after if f"{path}: recorded already" in logs]
    assert set(before) <= set(skipped)
    assert list(tmp_path.rglob(".*.tmp")) == [], "no half file"
    assert "12 runs" in said, "the table is of all jobs, old and new"
