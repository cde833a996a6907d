"""The tidy table, the Markdown table and the figure of made-up records."""

import csv
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saintprune.analysis.figures.pareto import look, pareto_figure
from saintprune.errors import SaintpruneError
from saintprune.metrics.samples import Samples
from saintprune.reporting.comparison_table import comparison_table, selecting_table, speed_table
from saintprune.reporting.paired import paired_table, pairs_of
from saintprune.reporting.records import RunRecord
from saintprune.reporting.results import read_rows, write_csv
from saintprune.reporting.samples_file import write_samples

SCRIPTS = Path(__file__).parents[2] / "scripts"


def record(method="tome", target="flops:0.5", seed=None, accuracy=0.8, agreement=0.9, ratio=0.49, speed=1.9, **more):
    stage = {"method": {} if seed is None else {"seed": seed}}
    return RunRecord(
        task="evaluate", model="tiny", dataset="made-up", pruning=f"{method} target={target}", num_samples=100,
        baseline={"accuracy": 0.85},
        pruned={"accuracy": accuracy, "tokens_per_layer": [17.0, 9.0], "throughput": 10 * speed},
        delta={"accuracy": accuracy - 0.85, "speedup": speed, "speedup_ci95": [speed - 0.1, speed + 0.1],
               "gflops_ratio": ratio},
        agreement=agreement, selector_overhead=0.02, commit="abc",
        hardware={"device": "a test", "precision": "32-true", "batch_size": 4},
        config={"calibration": {"target": target}, "pruning": {"stages": {"vision": stage}}},
        **more,
    )  # fmt: skip


def unreached(method, target):
    found = record(method, target, out_of_reach="gets to FLOPs 0.7")
    empty = {"accuracy": None, "speedup": None, "speedup_ci95": None, "gflops_ratio": None}
    arms = {arm: {"accuracy": None, "tokens_per_layer": None} for arm in ("baseline", "pruned")}
    missing = {"agreement": None, "selector_overhead": None, "num_samples": 0}
    return RunRecord(**{**vars(found), **arms, "delta": empty, **missing})


@pytest.fixture
def folder(tmp_path):
    """Records of three methods at two targets; one of them draws, one cannot reach the second target."""
    found = {
        "tome@a": record("tome", "flops:0.67", accuracy=0.84, agreement=0.97, ratio=0.66, speed=1.4),
        "tome@b": record("tome", "flops:0.5", accuracy=0.80, agreement=0.93),
        "pool@a": record("pool", "flops:0.67", accuracy=0.86, agreement=0.99, ratio=0.3, speed=2.9),
        "pool@b": unreached("pool", "flops:0.5"),
    }
    for seed, accuracy in ((0, 0.70), (1, 0.74)):
        found[f"random@a~{seed}"] = record("random", "flops:0.67", seed, accuracy=accuracy, ratio=0.66, speed=1.5)
        found[f"random@b~{seed}"] = record("random", "flops:0.5", seed, accuracy=accuracy - 0.1, agreement=0.7)
    for name, one in found.items():
        one.write(tmp_path / f"{name}.json")
    return tmp_path


def test_one_row_per_cell(folder):
    rows = list(csv.DictReader(write_csv(read_rows(folder), folder / "results.csv").read_text().splitlines()))
    assert len(rows) == 8 and [row["method"] for row in rows][:4] == ["pool", "pool", "random", "random"]
    first = next(row for row in rows if row["record"] == "random@a~1.json")
    assert (first["target"], first["seed"], first["status"]) == ("flops:0.67", "1", "measured")
    assert float(first["accuracy"]) == 0.74 and float(first["unpruned_accuracy"]) == 0.85
    assert (float(first["speedup_low"]), float(first["mean_tokens"]), first["commit"]) == (1.4, 13.0, "abc")
    missed = next(row for row in rows if row["record"] == "pool@b.json")
    assert (missed["status"], missed["accuracy"], missed["reason"]) == ("out of reach", "", "gets to FLOPs 0.7")
    assert next(row for row in rows if row["method"] == "tome")["seed"] == ""


def test_an_empty_folder_is_pointed_out(tmp_path):
    with pytest.raises(SaintpruneError, match="holds no record"):
        read_rows(tmp_path)


def test_the_table_marks_what_is_best_and_what_does_not_match(folder):
    lines = comparison_table(read_rows(folder)).splitlines()
    assert lines[0].startswith(
        "| method | FLOPs 0.67: accuracy | FLOPs 0.67: agreement | FLOPs 0.67: speed-up | FLOPs 0.5"
    )
    assert lines[2] == "| unpruned | 85.0 % |  | 1.00x | 85.0 % |  | 1.00x |"
    assert lines[3] == "| tome | **84.0 %** | **97.0 %** | 1.40x | **80.0 %** | **93.0 %** | **1.90x** |"
    assert lines[4].startswith("| random | 72.0 % (70.0–74.0) | 90.0 % (90.0–90.0) | **1.50x (1.50–1.50)** | 62.0 %")
    assert lines[5] == "| pool | 86.0 % † | 99.0 % † | 2.90x † | out of reach | out of reach | out of reach |"
    notes = "\n".join(lines[6:])
    assert "over up to 2 seeds" in notes and "falls short" in notes
    assert "† leaves at least 0.03 less of the FLOPs than asked for: its steps are coarse." in notes
    deferring = [replace(row, deferred=0.1 if row.method == "pool" else None) for row in read_rows(folder)]
    assert "asked for: it defers fewer of these images." in comparison_table(deferring)


def test_what_selecting_takes_is_told_in_milliseconds_of_an_image(folder):
    assert selecting_table(read_rows(folder)).splitlines() == [
        "| method | FLOPs 0.67: selecting | FLOPs 0.5: selecting |",
        "|---|---|---|",
        "| pool | 0.7 ms, 2.0 % | - |",  # 2 % of 1 / 29 s
        "| random | 1.3 ms, 2.0 % | 1.1 ms, 2.0 % |",
        "| tome | 1.4 ms, 2.0 % | 1.1 ms, 2.0 % |",
    ]


def test_time_alone_is_told_without_accuracy(folder):
    lines = speed_table([one for one in read_rows(folder) if one.target == "flops:0.5"]).splitlines()
    assert lines[2] == "| unpruned | 1.00 | 1.00x | |" and lines[-1] == "| pool | out of reach | | |"
    assert lines[3] == "| random | 0.49 | 1.90x (1.80–2.00) | 2.0 % |"


def answers(same, right):
    unpruned = torch.ones(len(same), dtype=torch.bool)
    return Samples(torch.tensor(same), unpruned, torch.tensor(right))


def test_methods_are_paired_by_sample_and_target(folder):
    few = [True] * 4 + [False] * 4
    for name, same in {"tome@a": [True] * 8, "tome@b": few, "pool@a": few, "random@b~0": few}.items():
        write_samples(folder / f"{name}.npz", answers(same, same))
    write_samples(folder / "random@a~0.npz", answers(few, few))
    write_samples(folder / "random@a~1.npz", answers([True] * 8, few))
    found = {(pair.other, pair.target): pair for pair in pairs_of(folder, "tome")}
    assert set(found) == {("pool", "flops:0.67"), ("random", "flops:0.67"), ("random", "flops:0.5")}
    assert found["pool", "flops:0.67"].agreement.value == 0.5 and found["pool", "flops:0.67"].agreement.low > 0
    both_seeds = found["random", "flops:0.67"]  # means of two seeds, sample by sample
    assert (both_seeds.agreement.value, both_seeds.accuracy.value) == (0.25, 0.5)
    lines = paired_table(folder, "tome").splitlines()
    assert lines[0].startswith(
        "| tome above | FLOPs 0.67: same answers | FLOPs 0.67: accuracy | FLOPs 0.5: same answers"
    )
    assert lines[2].startswith("| random | **+25.0 (+") and lines[2].endswith(
        "| +0.0 (+0.0 to +0.0) | +0.0 (+0.0 to +0.0) |"
    )
    assert lines[3].startswith("| pool | **+50.0 (") and lines[3].endswith("| - | - |")
    with pytest.raises(
        SaintpruneError, match=r"no answers of 'ward' at a target; of these it does: pool, random, tome"
    ):
        pairs_of(folder, "ward")


def results_table():
    spec = importlib.util.spec_from_file_location("results_table", SCRIPTS / "results_table.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.fixture
def shares(tmp_path):
    """Answers of a vision-language model to four questions, by methods of two places; one of them draws."""
    kept = {
        ("drop50", "ward_projector", None): [True, True, True, True],
        ("drop90", "ward_projector", None): [True, True, True, False],
        ("drop50", "random_projector", 0): [True, True, False, False],
        ("drop50", "random_projector", 1): [True, True, True, False],
        ("drop90", "random_projector", 0): [False, False, False, False],
        ("drop90", "random_projector", 1): [True, True, False, False],
        ("drop50", "dart", None): [True, False, False, False],
    }
    for number, ((share, method, seed), same) in enumerate(kept.items()):
        found = record(f"{share}/{method}", None, seed, agreement=sum(same) / 4)
        (stage,) = found.config["pruning"]["stages"].values()
        stage["site"] = "projector" if "projector" in method else "language"
        arm = {"ttft_seconds": 1.0, "gflops": 80.0}
        delta = {**found.delta, "ttft_speedup": 1.0 + number / 4}
        name = f"{share}/{method}" + ("" if seed is None else f" seed={seed}")
        found = replace(found, pruning=name, baseline=found.baseline | arm, delta=delta)
        replace(found, pruned=found.pruned | arm | {"gflops": 40.0 + number}).write(tmp_path / f"{number}.json")
        write_samples(tmp_path / f"{number}.npz", answers(same, same))
    return tmp_path


def test_a_table_by_share_shows_means_over_seeds(shares):
    lines = results_table().table(shares, "share").splitlines()
    assert lines[0].startswith("| pruning | where | −50 %: same answers | −50 %: GFLOPs | −50 %: first token | −90 %:")
    assert lines[2:6] == [
        "| unpruned |  | | 80 | 1.00x | | 80 | 1.00x |",
        "| ward_projector | before the decoder | 100.0 % | 40 | 1.00x | 75.0 % | 41 | 1.25x |",
        "| random_projector | before the decoder | 62.5 % (50.0–75.0) | 42 | 1.62x | 25.0 % (0.0–50.0) | 44 | 2.12x |",
        "| dart | decoder | 25.0 % | 46 | 2.50x | - | - | - |",
    ]


def test_methods_are_paired_share_by_share_and_over_all(shares):
    found = {(pair.other, pair.target): pair.agreement.value for pair in pairs_of(shares, "ward_projector")}
    assert found == {
        ("random_projector", "drop:0.5"): 0.375,
        ("random_projector", "drop:0.9"): 0.5,
        ("random_projector", "all"): 0.4375,
        ("dart", "drop:0.5"): 0.75,
        ("dart", "all"): 0.75,
    }
    lines = results_table().table(shares, "pairs", "ward_projector").splitlines()
    assert lines[0].startswith("| ward_projector above | −50 %: same answers | −50 %: accuracy | −90 %: same answers")
    assert lines[0].endswith("| all: same answers | all: accuracy |")
    assert lines[2].startswith("| random_projector | ") and "| **+43.8 (" in lines[2]
    assert lines[3].startswith("| dart | ") and "| - | - | **+75.0 (" in lines[3]
    for number in (1, 4, 5):  # those at drop90
        (shares / f"{number}.json").unlink()
    assert {pair.target for pair in pairs_of(shares, "ward_projector")} == {"drop:0.5"}, "one share is all there is"


def test_readme_takes_the_table_by_the_same_markers(folder):
    script = results_table()
    found = script.table(folder)
    assert found.startswith("| method | FLOPs 0.67") and "tiny on made-up, 100 test images; a test, 32-true" in found
    assert script.table(folder, "selecting").startswith("| method | FLOPs 0.67: selecting")
    for method in ("tome", "random"):
        for path in folder.glob(f"{method}@*.json"):
            write_samples(path.with_suffix(".npz"), Samples(torch.ones(100, dtype=torch.bool)))
    assert script.table(folder, "pairs", "tome").startswith("| tome above |")
    assert script.MARKED.fullmatch("<!-- results: a by pairs of tome -->\n<!-- /results -->")[4] == "tome"
    assert "turn" not in found
    paths = [path for path in sorted(folder.glob("*.json")) if path.stem != "pool@b"]
    in_turn = {"speedup": 2.5, "device": "another", "throughput": 50, "selector_overhead": 0.1}
    for number, path in enumerate(paths, start=1):
        replace(RunRecord.read(path), in_turn=in_turn).write(path)
        last = script.table(folder).splitlines()[-1]
        assert last.endswith("; all timed in turn." if number == len(paths) else f"; {number} cells timed in turn.")
    assert "| pool | 2.0 ms, 10.0 % | - |" in script.table(folder, "selecting")
    assert "; another, 32-true" in last and "| pool | 86.0 % † | 99.0 % † | 2.50x † |" in script.table(folder)


def test_the_figure_is_drawn_and_looks_differ(folder, tmp_path):
    path = pareto_figure(read_rows(folder), tmp_path / "out" / "pareto.png")
    assert path.stat().st_size > 10_000 and "<svg" in path.with_suffix(".svg").read_text()
    looks = [(look(number)["color"], look(number)["marker"]) for number in range(36)]
    assert len(set(looks)) == 36
    assert pareto_figure([], tmp_path / "none.png") is None


def test_a_figure_without_labels_shows_agreement_alone(tmp_path):
    from saintprune.reporting.results import row

    rows = [row(record(accuracy=0.8), "a"), row(record(target="flops:0.3", ratio=0.3, speed=2.5), "b")]
    rows = [type(one)(**{**vars(one), "accuracy": None, "unpruned_accuracy": None}) for one in rows]
    path = pareto_figure(rows, tmp_path / "pareto.png")
    svg = path.with_suffix(".svg").read_text()
    assert "same answer as unpruned" in svg and "accuracy, %" not in svg
