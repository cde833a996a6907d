"""Comparisons on a small random network and noise: cells, one model for all, resuming, failures."""

import json
from dataclasses import replace

import pytest
import torch

from saintprune import wiring, wiring_calibration, wiring_in_turn
from saintprune.adapters.timm_vit import TimmViT
from saintprune.config import Task
from saintprune.errors import SaintpruneError
from saintprune.models import corrections
from saintprune.plan import Plan
from saintprune.reduction.saint import Saint
from saintprune.reporting.records import RunRecord
from saintprune.reporting.results import read_rows
from saintprune.reporting.samples_file import beside, read_samples
from saintprune.wiring_compare import cells, chosen, run_all
from saintprune.wiring_in_turn import time_folder
from small_run import NETWORK

SMALL = [
    *NETWORK,
    "dataset=synthetic",
    "dataset.size=6",
    "hardware=cpu",
    "hardware.batch_size=3",
    "hardware.num_workers=0",
    "benchmark.pairs=5",
    "benchmark.max_seconds=0.1",
    "benchmark.batches=1",
    "calibration.samples=3",
    "calibration.steps=3",
    "calibration.pairs=1",
]
TARGETS = ["flops:0.8", "flops:0.6"]
OLD = {"task": "benchmark", "model": {"name": "m"}, "calibration": {"samples": 3}}


def test_cells_are_named_after_pruning_target_and_seed():
    names = [cell.name for cell in cells(["random", "vit_s14/tome_speedup2"], SMALL, TARGETS, 2)]
    assert names == [
        "random@flops0.8~seed0", "random@flops0.8~seed1", "random@flops0.6~seed0", "random@flops0.6~seed1",
        "vit_s14-tome_speedup2@flops0.8", "vit_s14-tome_speedup2@flops0.6",
    ]  # fmt: skip
    assert [cell.name for cell in cells(["random", "tome"], SMALL)] == ["random", "tome"]
    one = cells(["random"], SMALL, ["flops:0.8"], 2)[1]
    assert one.cfg.pruning.stages.vision.method.seed == 1 and one.cfg.calibration.target == "flops:0.8"
    assert one.names == {"dataset": "synthetic", "pruning": "random target=flops:0.8 seed=1"}


def test_seeds_are_also_set_in_what_follows_where_a_pruning_defers():
    deferring = [*SMALL, "+pruning.defer=0.4", "+pruning@pruning.second=random"]
    assert [cell.name for cell in cells(["tome"], deferring, seeds=2)] == ["tome~seed0", "tome~seed1"]
    both = cells(["random"], deferring, seeds=2)[1].cfg.pruning
    assert both.stages.vision.method.seed == both.second.stages.vision.method.seed == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": ["flop:0.5"]}, "did you mean 'flops'"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"overrides": [*SMALL, "modle=vit_s14"]}, "cannot compose .* Could not override 'modle'"),
        ({"overrides": [*SMALL, "task=calibrate"]}, "not of task=calibrate"),
    ],
)
def test_mistakes_are_told_before_anything_runs(arguments, message):
    with pytest.raises(SaintpruneError, match=message) as error:
        cells(**{"prunings": ["random"], "overrides": SMALL, **arguments})
    assert "\n" not in str(error.value)


def test_patterns_name_prunings():
    assert chosen(["tome", "to*"]) == ["tome", "tofu", "tome_cascade", "tome_dropped"]
    assert "drop50/saint_vision" in chosen(["drop50/*"])
    with pytest.raises(SaintpruneError, match="no pruning is called 'nothing'"):
        chosen(["nothing"])


@pytest.fixture
def built(monkeypatch):
    """Count how often a model is built and which targets are calibrated to."""
    calls = []
    build, calibrate = wiring.build, wiring_calibration.calibrate
    monkeypatch.setattr(wiring, "build", lambda *given: calls.append("build") or build(*given))
    monkeypatch.setattr(
        wiring_calibration, "calibrate", lambda *given: calls.append(str(given[1])) or calibrate(*given)
    )
    return calls


def test_a_comparison_resumes_and_records_what_is_out_of_reach(tmp_path, built):
    planned = cells(["random", "tome", "none"], SMALL, TARGETS, 2)
    assert run_all(tmp_path, planned[:3]) == {}
    assert built == ["build", "flops:0.8", "flops:0.8", "flops:0.6"]
    built.clear()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "none@flops0.8.npz").write_bytes(b"answers of an earlier version that got there")
    assert run_all(tmp_path, planned) == {}, "out of reach is no failure"
    assert len(built) == 1 + 5, "three of eight were there"
    assert all(path.read_bytes() == content for path, content in before.items())
    assert {path.stem for path in tmp_path.glob("*.json")} == {cell.name for cell in planned}
    found = {path.stem: RunRecord.read(path) for path in tmp_path.glob("*.json")}
    for cell in planned:
        record, stored = found[cell.name], beside(tmp_path / f"{cell.name}.json")
        if cell.pruning == "none":
            assert "KeepAll prunes nothing" in record.out_of_reach and not stored.exists()
            assert record.agreement is None and record.delta["speedup"] is None
            continue
        assert record.out_of_reach is None and record.delta["gflops_ratio"] <= cell.target.value + 0.02
        assert record.calibration["measured"]["flops"] <= cell.target.value
        assert read_samples(stored).same.double().mean().item() == pytest.approx(record.agreement)
    seeds = [read_samples(tmp_path / f"random@flops0.6~seed{seed}.npz").same for seed in (0, 1)]
    assert len(seeds[0]) == 6
    built.clear()
    run_all(tmp_path, planned)
    assert built == []


def test_what_runs_share_changes_no_result(tmp_path):
    planned = cells(["saint", "tome"], [*SMALL, "model.net.img_size=96"], ["flops:0.7"])
    torch.manual_seed(0)
    run_all(tmp_path / "together", planned)
    for cell in planned:
        run_all(tmp_path / "alone", [cell])
    for cell in planned:
        one, other = (RunRecord.read(tmp_path / folder / f"{cell.name}.json") for folder in ("together", "alone"))
        assert one.out_of_reach is None
        assert (one.agreement, one.output_cosine) == (other.agreement, other.output_cosine)
        assert one.pruned["tokens_per_layer"] == other.pruned["tokens_per_layer"]
        assert one.pruned["gflops"] == other.pruned["gflops"] and one.calibration["value"] == other.calibration["value"]


def test_cells_are_timed_in_turn_as_they_were_calibrated(tmp_path, monkeypatch):
    planned = cells(["saint", "tome", "none"], SMALL, ["flops:0.7"])
    assert run_all(tmp_path, planned) == {}
    before = {row.method: row for row in read_rows(tmp_path)}
    rounds = []

    def in_turn(arms, settings, advance):
        rounds.append((list(arms), settings.pairs))
        seconds = {name: torch.tensor([arm(0), arm(0)]) for name, arm in arms.items()}
        assert all((one > 0).all() for one in seconds.values())
        saint, tome = torch.tensor([2.0, 3.0]), torch.tensor([1.0, 4.5])  # a half twice; a quarter and three quarters
        return dict(zip(arms, (torch.tensor([4.0, 6.0]), saint, tome), strict=True))

    monkeypatch.setattr("saintprune.wiring_in_turn.time_in_turn", in_turn)
    plans = []
    pruned = TimmViT.pruned
    monkeypatch.setattr(TimmViT, "pruned", lambda self, plan, **how: plans.append(plan) or pruned(self, plan, **how))
    assert time_folder(tmp_path, 2) == pytest.approx({"saint@flops0.7": 2.0, "tome@flops0.7": 2.0})
    assert rounds == [(["", "saint@flops0.7", "tome@flops0.7"], 2)], "what is out of reach is not timed"
    saint, tome = (RunRecord.read(tmp_path / f"{name}@flops0.7.json") for name in ("saint", "tome"))
    assert plans[0].stages["vision"].method.threshold == saint.calibration["value"] != Saint().threshold
    assert plans[-1].stages["vision"].schedule.drop == tome.calibration["value"]
    after = {row.method: row for row in read_rows(tmp_path)}
    assert (after["saint"].speedup, after["saint"].speedup_low, after["saint"].beside) == (2.0, 2.0, 1)
    tome_row = after["tome"]
    assert (tome_row.speedup, tome_row.speedup_low, tome_row.speedup_high) == pytest.approx((2.0, 4 / 3, 4.0))
    assert before["tome"].speedup != 2.0 and before["tome"].beside is None
    timed = ("speedup", "speedup_low", "speedup_high", "beside", "selector_share", "selector_ms")
    untimed = [replace(rows["tome"], **dict.fromkeys(timed)) for rows in (before, after)]
    assert untimed[0] == untimed[1], "all else is as it was"
    assert after["tome"].selector_ms == pytest.approx(1000 * after["tome"].selector_share / tome.in_turn["throughput"])
    assert tome.in_turn["rounds"] == 2 and tome.delta["speedup"] == before["tome"].speedup


def test_corrections_lie_beside_the_records_and_are_timed(tmp_path, monkeypatch):
    corrected = [*SMALL, "dataset.size=24", "calibration.correct=21"]
    assert run_all(tmp_path, cells(["glance", "tome"], corrected, ["flops:0.9"])) == {}
    assert {path.stem for path in tmp_path.glob("*.safetensors")} == {"glance@flops0.9", "tome@flops0.9"}
    plans, timed = [], wiring_in_turn.timed_pass

    def noted(adapter, plan, images):
        plans.append(plan)
        return timed(adapter, plan, images)

    monkeypatch.setattr(wiring_in_turn, "timed_pass", noted)
    time_folder(tmp_path, 2)
    stored = {repr(corrections.corrected(Plan(), path).correction) for path in tmp_path.glob("*.safetensors")}
    assert {repr(plan.correction) for plan in plans if plan is not None} == stored
    plain = cells(["glance", "tome"], [*SMALL, "dataset.size=24"], ["flops:0.9"])
    with pytest.raises(SaintpruneError, match=r"calibration\.correct is 21 in one and null in the other"):
        run_all(tmp_path, plain[1:])
    assert (tmp_path / "tome@flops0.9.safetensors").exists(), "it is said before anything is measured"
    assert run_all(tmp_path, plain) == {}
    assert not (tmp_path / "tome@flops0.9.safetensors").exists(), "it was of the cell before"


@pytest.mark.parametrize("rounds, message", [(1, "--in-turn is 1"), (2, "holds no measured record")])
def test_what_cannot_be_timed_in_turn(tmp_path, rounds, message):
    with pytest.raises(SaintpruneError, match=message):
        time_folder(tmp_path, rounds)


def test_cells_of_other_models_are_neither_run_nor_timed_together(tmp_path):
    message = r"random\.json and \S*stride\.json .*: model\.net\.img_size is 64 in one and 96"
    run_all(tmp_path, cells(["random"], SMALL))
    others = cells(["stride"], [*SMALL, "model.net.img_size=96"])
    with pytest.raises(SaintpruneError, match=message):
        run_all(tmp_path, others)
    assert run_all(tmp_path / "apart", others) == {}
    (tmp_path / "apart" / "stride.json").rename(tmp_path / "stride.json")
    with pytest.raises(SaintpruneError, match=message):
        time_folder(tmp_path, 2)


def test_prunings_of_a_vision_language_model_are_not_timed_in_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(wiring, "build", lambda *given: pytest.fail("nothing needs to be loaded for that"))
    figures = {"baseline": {"ttft_seconds": 1.0}, "pruned": {}, "delta": {}}
    RunRecord("evaluate", "vlm", "questions", "fastv", 8, **figures).write(tmp_path / "fastv.json")
    with pytest.raises(SaintpruneError, match=r"fastv\.json: only prunings of networks that look at images alone"):
        time_folder(tmp_path, 2)


def test_a_record_is_timed_with_keys_that_came_after_it():
    cfg = wiring_in_turn._config_of(RunRecord("benchmark", "m", "d", "p", 0, {}, {}, {}, config=OLD))
    assert cfg.task == Task.benchmark and cfg.calibration.samples == 3
    assert cfg.calibration.correct is None and cfg.model.name == "m"


def test_a_cell_that_fails_stops_no_other_and_leaves_no_record(tmp_path, monkeypatch, capsys):
    measured = wiring.measured

    def breaks(parts, calibrated=None):
        if parts.names["pruning"] == "stride":
            raise RuntimeError("out of memory")
        return measured(parts, calibrated)

    monkeypatch.setattr(wiring, "measured", breaks)
    failed = run_all(tmp_path, cells(["stride", "tome"], SMALL))
    assert failed == {"stride": "RuntimeError: out of memory"}
    assert "RuntimeError: out of memory" in capsys.readouterr().out
    assert not (tmp_path / "stride.json").exists() and (tmp_path / "tome.json").is_file()


def test_a_killed_run_leaves_no_record(tmp_path, monkeypatch):
    (cell,) = cells(["tome"], SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(RunRecord, "write", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_all(tmp_path, [cell])
    assert [path.name for path in tmp_path.iterdir()] == ["tome.npz"]
    run_all(tmp_path, [cell])
    assert RunRecord.read(tmp_path / "tome.json").num_samples == 6


def test_a_cell_that_takes_the_place_of_another_says_so(tmp_path, capsys):
    run_all(tmp_path, cells(["tome"], SMALL))
    assert "will be replaced" not in capsys.readouterr().out
    run_all(tmp_path, cells(["tome"], [*SMALL, "pruning.stages.vision.method.r=2", "dataset.size=3"]))
    printed = capsys.readouterr().out
    assert "tome.json will be replaced: dataset.size 6 -> 3, pruning.stages.vision.method.r " in printed
    path = tmp_path / "tome.json"
    replace(RunRecord.read(path), identity="of other code").write(path)
    run_all(tmp_path, cells(["tome"], [*SMALL, "pruning.stages.vision.method.r=2", "dataset.size=3"]))
    assert "will be replaced: the code or its packages are others now" in capsys.readouterr().out


def test_another_config_is_run_again(tmp_path, built):
    run_all(tmp_path, cells(["tome"], SMALL))
    run_all(tmp_path, cells(["tome"], [*SMALL, "analysis.samples=3", "calibration.save_as=x"]))
    assert built == ["build"], "neither changes a figure"
    run_all(tmp_path, cells(["tome"], [*SMALL, "pruning.stages.vision.method.r=2"]))
    assert built == ["build", "build"]
    assert json.loads((tmp_path / "tome.json").read_text())["config"]["pruning"]["stages"]["vision"]["method"]["r"] == 2
