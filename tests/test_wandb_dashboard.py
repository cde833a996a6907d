"""The dashboard and the report are code: what would be sent is looked at without sending it."""

import importlib.util
import json
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location(
    "wandb_dashboard", Path(__file__).parents[1] / "scripts" / "wandb_dashboard.py"
)
script = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(script)


@pytest.fixture
def shown(capsys, monkeypatch):
    """Do a dry run; return what it printed."""
    pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed: saintprune[dashboards]")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)

    def do(*arguments):
        assert script.main(["--dry-run", "--entity", "team", *arguments]) == 0
        return json.loads(capsys.readouterr().out)

    return do


def test_a_dry_run_shows_front_tokens_and_budgets_of_one_sweep(shown):
    found = shown("--group", "today/sweep")
    for name in ("dashboard", "report"):
        text = json.dumps(found[name])
        for key in ("delta/speedup", "pruned/accuracy", "tokens/tokens_pruned", "tokens/layer", "config:method",
                    "config:target", "pictures/survivors_vision", "today/sweep"):  # fmt: skip
            assert key in text, f"{key} is not in the {name}"


def test_without_a_group_all_runs_are_shown(shown):
    assert "today/sweep" not in json.dumps(shown())


def test_without_a_key_it_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(script, "key_present", lambda: False)
    assert script.main([]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: no W&B key") and "--dry-run" in said and said.count("\n") == 1


def test_a_missing_package_is_one_line(capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    assert script.main(["--dry-run"]) == 1
    assert capsys.readouterr().err == "error: dashboards need wandb-workspaces: pip install 'saintprune[dashboards]'\n"
