"""Records are whole or absent; tables and figures hold what records hold."""

import errno
import io
import json
import os

import pytest
from rich.console import Console

from records import SCORES, TIMING, record
from saintprune.analysis.figures import drawing
from saintprune.errors import SaintpruneError
from saintprune.files import write_atomically, write_figure
from saintprune.reporting import plots
from saintprune.reporting.assemble import figures
from saintprune.reporting.loggers import flat_figures
from saintprune.reporting.plots import sweep_figure
from saintprune.reporting.records import RunRecord
from saintprune.reporting.sweep import summarise
from saintprune.reporting.tables import layers_line, run_table, sweep_names, sweep_table


def text(renderable, width=160):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def test_figures():
    found = figures(SCORES, TIMING, lambda rate: rate / 1e12)
    assert found["delta"]["accuracy"] == pytest.approx(-0.025)
    assert found["delta"]["gflops_ratio"] == pytest.approx(0.4)
    assert found["pruned"]["tokens_per_layer"] == [130.5, 66.0], "of the whole test split, not of the timed batches"
    assert found["baseline"]["share_of_peak"] == pytest.approx(0.125)


def test_what_was_not_measured_is_absent():
    only_timed, only_scored = figures(None, TIMING), figures(SCORES, None)
    assert only_timed["baseline"]["accuracy"] is None and only_timed["delta"]["accuracy"] is None
    assert only_timed["pruned"]["tokens_per_layer"] == [131.0, 65.0]
    assert only_scored["delta"]["speedup"] is None and only_scored["benchmark"] is None


def test_a_record_comes_back_as_written(tmp_path):
    path = record().write(tmp_path / "deep" / "metrics.json")
    found = RunRecord.read(path)
    assert json.loads(path.read_text())["delta"]["speedup_ci95"] == [2.0, 2.2]
    assert found.delta["speedup"] == 2.1 and found.versions["torch"] and found.schema_version == 1
    assert found.created.endswith("+00:00")


def test_what_is_no_record_is_named(tmp_path):
    for content in (
        "{",
        "[]",
        '{"schema_version": 99}',
        '{"schema_version": 1, "pruning": "tome"}',
        '{"schema_version": 1, "config": 3}',
    ):
        (tmp_path / "metrics.json").write_text(content)
        with pytest.raises(SaintpruneError, match=r"metrics\.json"):
            RunRecord.read(tmp_path / "metrics.json")
        assert RunRecord.read_if_whole(tmp_path / "metrics.json") is None


def full(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    path.write_text("before")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SaintpruneError, match=r"cannot write .*metrics\.json: No space left on device"):
        write_atomically(path, "after")
    assert path.read_text() == "before" and [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_not_a_number_is_never_written(tmp_path):
    with pytest.raises(SaintpruneError, match="not a finite number"):
        record(scores={**SCORES, "output_cosine": float("nan")}).write(tmp_path / "metrics.json")
    assert not list(tmp_path.iterdir())


def test_table_sets_side_by_side():
    shown = text(run_table(record()))
    for cell in (
        "87.5 %",
        "85.0 %",
        "-2.5 (-4.0 to -1.0)",
        "93.8 %",
        "2.10x (2.00–2.20)",
        "0.40x",
        "98.2",
        "1.20 %",
    ):
        assert cell in shown
    assert text(run_table(record(scores=None))).count(" - ") >= 3
    assert "deferred" not in shown
    deferring = record(scores={**SCORES, "deferred": 0.125})
    assert deferring.pruned["deferred"] == 0.125 and "12.5 %" in text(run_table(deferring))
    assert "twice" not in text(run_table(record(scores={**SCORES, "deferred": 0.125, "deferred_twice": 0.0})))
    twice = record(scores={**SCORES, "deferred": 0.125, "deferred_twice": 0.0375})
    assert "twice" in text(run_table(twice)) and "3.8 %" in text(run_table(twice))


def test_sweep_table_has_a_row_per_run():
    assert text(sweep_table([record(), record(scores=None)])).count("2.10x") == 2
    narrow = text(sweep_table([record(pruning="random hardware.batch_size=16"), record()]), width=80)
    assert "16" in narrow and "…" not in narrow


def test_runs_of_a_sweep_are_told_apart_by_what_they_do_not_share():
    runs = [record(pruning="m/fast seed=1"), record(pruning="tome")]
    assert sweep_names(runs) == ["fast seed=1", "tome"]
    assert sweep_names([*runs, record(dataset="e")]) == ["m d fast seed=1", "m d tome", "m e p"]


def test_a_sweep_is_summed_up(tmp_path, capsys):
    for number in range(2):
        record().write(tmp_path / str(number) / "metrics.json")
    summarise(tmp_path)
    printed = capsys.readouterr().out
    assert "2 runs" in printed and "figure: " in printed and (tmp_path / "sweep.svg").is_file()
    summarise(tmp_path / "empty")
    assert capsys.readouterr().out == ""


def test_layers_line():
    assert layers_line([257.0, 257.0, 130.5, 66.0]) == "257x2 130 66"
    assert layers_line(None) == "-"


def test_sweep_figure(tmp_path):
    path = sweep_figure([record(), record()], tmp_path / "sweep.png")
    assert path.stat().st_size > 10_000 and (tmp_path / "sweep.svg").is_file()
    assert sweep_figure([record(timing=None)], tmp_path / "none.png") is None


@pytest.mark.parametrize(
    "draw", [lambda path: sweep_figure([record()], path), lambda path: write_figure(drawing.panels(1, 1)[0], path)]
)
def test_figures_are_whole_or_as_they_were(tmp_path, monkeypatch, draw):
    path = tmp_path / "figure.png"
    for one in (path, path.with_suffix(".svg")):
        one.write_text("before")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(SaintpruneError, match="No space left"):
            draw(path)
    assert {one.read_text() for one in tmp_path.iterdir()} == {"before"}
    assert draw(path) == path and path.read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in path.with_suffix(".svg").read_text()


def test_the_legend_of_a_sweep_names_its_runs(tmp_path, monkeypatch):
    named, point = [], plots._point
    monkeypatch.setattr(plots, "_point", lambda axis, name, *more: named.append(name) or point(axis, name, *more))
    sweep_figure([record(pruning="ward hardware.batch_size=1"), record(dataset="e")], tmp_path / "sweep.png")
    assert set(named) == {"m d ward hardware.batch_size=1", "m e p"}


def test_flat_figures_are_numbers():
    flat = flat_figures(record().__dict__)
    assert flat["delta/speedup"] == 2.1 and flat["pruned/tokens_per_layer/1"] == 66.0
    assert all(isinstance(value, float) for value in flat.values())
    assert not any("config" in key for key in flat)
