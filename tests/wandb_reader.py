"""Reads an offline W&B run back with W&B's own reader, and keeps W&B inside a test's folder."""

import json
import subprocess
import sys

import pytest


def keep_offline(monkeypatch, folder):
    """Let W&B write offline, and its caches below a folder."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for name in ("CACHE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(folder / f"wandb-{name.lower()}"))


def read_run(folder):
    """Return what the one run below a folder's `wandb` holds: records by their type, as `wandb leet inspect` says."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"this wandb cannot read its own runs: {done.stderr.strip()[-200:]}")
    found = {}
    for line in done.stdout.splitlines():
        one = json.loads(line)
        found.setdefault(one["type"], []).append(one[one["type"]])
    return found


def history(run):
    """Return the rows of a run's history."""
    return [one["item"] for one in run["history"]]


def merged(run, kind):
    """Return what a run's config or summary is in the end."""
    found = {}
    for one in run[kind]:
        found |= one["update"]
    return found
