"""W&B runs hold record, curves and pictures; TensorBoard shows them; none of them takes the record with it."""

import json
import sys
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from records import record
from saintprune.errors import SaintpruneError
from saintprune.files import write_atomically
from saintprune.reporting import wandb_run
from saintprune.reporting.logged import Logged, read_curves
from saintprune.reporting.loggers import log_run, tensorboard_logger, wandb_logger
from saintprune.reporting.sweep import summarise
from wandb_reader import history, keep_offline, merged, read_run

CURVES = "layer,key_cosine,edges@0.5\n0,0.25,0.5\n1,,1\n"
WANDB = {"logger": {"_target_": "saintprune.reporting.loggers.wandb_logger", "project": "p", "entity": None}}


@pytest.fixture
def logged(tmp_path):
    """A run's record beside curves of two networks and a picture."""
    made = record(config={"task": "evaluate", "calibration": {"target": "flops:0.5"}})
    path = made.write(tmp_path / "run" / "metrics.json")
    for network in ("own", "shuffled-0"):
        place = path.parent / "curves" / "vision" / network
        write_atomically(place / "layers.csv", CURVES)
        write_atomically(place / "meta.json", json.dumps({"part": "vision"}))
    (path.parent / "figures").mkdir()
    Image.new("RGB", (8, 8)).save(path.parent / "figures" / "survivors_vision.png")
    return Logged.of(made, path)


def test_what_lies_beside_a_record_is_found(logged):
    assert [(one.part, one.network) for one in logged.curves] == [("vision", "own"), ("vision", "shuffled 0")]
    values = logged.curves[0].values
    assert values["edges@0.5"] == [0.5, 1.0] and values["key_cosine"][1] != values["key_cosine"][1], "NaN"
    assert list(logged.pictures) == ["survivors_vision"]


def test_curves_that_cannot_be_read_are_named(logged):
    (logged.path.parent / "curves" / "vision" / "own" / "layers.csv").write_text("layer,a\n0,b\n")
    with pytest.raises(SaintpruneError, match=r"layers\.csv holds no curves that can be read"):
        read_curves(logged.path.parent)


def test_a_wandb_run_read_back_holds_record_curves_and_pictures(logged, tmp_path, monkeypatch):
    keep_offline(monkeypatch, tmp_path)
    assert log_run(wandb_logger(str(tmp_path), group="g"), logged) is None
    run = read_run(tmp_path)
    config, summary = merged(run, "config"), merged(run, "summary")
    assert config["task"] == "evaluate" and (config["method"], config["target"]) == ("p", "flops:0.5")
    stored = json.loads(logged.path.read_text())
    assert summary["record"] == {name: value for name, value in stored.items() if name != "config"}
    assert summary["delta/speedup"] == 2.1
    (artifact,) = [one for one in run["artifact"] if one["type"] == "record"]
    copied = Path(artifact["manifest"]["contents"][0]["local_path"])
    assert copied.read_text() == logged.path.read_text()
    assert copied.is_relative_to(tmp_path / "wandb"), "in the run's own folder, to be synced later"
    rows = history(run)
    tokens = [(row["tokens/layer"], row["tokens/tokens_pruned"]) for row in rows if "tokens/tokens_pruned" in row]
    assert tokens == [(0, 130.5), (1, 66.0)]
    curve = [row.get("curves/vision/edges@0_5") for row in rows if "curves/vision/layer" in row]
    assert curve[:2] == [0.5, 1.0] and any("curves/vision/edges@0_5 (shuffled 0)" in row for row in rows)
    steps = {one["name"]: one.get("step_metric") for one in run["metric"] if "name" in one}
    assert steps["curves/vision/edges@0_5"] == "curves/vision/layer"
    last = {key: value for row in rows for key, value in row.items()}
    assert last["pictures/survivors_vision._type"] == "image-file" and last["tokens/tokens_table._type"] == "table-file"
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert (folder / "files" / last["pictures/survivors_vision.path"]).is_file()


def test_two_records_in_one_process_are_two_runs_and_their_comparison_a_third(tmp_path, monkeypatch):
    keep_offline(monkeypatch, tmp_path)
    monkeypatch.setenv("WANDB_RUN_ID", "shared")  # as of an agent around the sweep
    sweep = tmp_path / "today" / "sweep"
    for number in range(2):
        made = record(config=WANDB)
        path = made.write(sweep / str(number) / "metrics.json")
        logger = wandb_logger(str(path.parent), group="today/sweep")
        assert log_run(logger, Logged.of(made, path)) is None
    summarise(sweep)
    runs = [read_run(folder) for folder in (sweep / "0", sweep / "1", sweep)]
    started = [run["run"][-1] for run in runs]
    assert len({one["run_id"] for one in started}) == 3
    assert [one["run_group"] for one in started] == ["today/sweep"] * 3
    last = {key: value for row in history(runs[2]) for key, value in row.items()}
    assert last["comparison._type"] == "table-file" and last["comparison.nrows"] == 2
    assert last["pictures/sweep._type"] == "image-file" and (sweep / "results.csv").is_file()


def test_a_logger_that_fails_says_so_and_the_next_run_starts_afresh(logged, tmp_path, monkeypatch):
    keep_offline(monkeypatch, tmp_path)
    broken = Logged(logged.record, logged.path, logged.curves, {"gone": tmp_path / "gone.png"})
    assert "gone.png" in log_run(wandb_logger(str(tmp_path / "first")), broken)
    assert logged.path.is_file()
    import wandb

    assert wandb.run is None


def test_a_run_that_cannot_be_closed_costs_a_line(logged, tmp_path, monkeypatch):
    def gone():
        raise TimeoutError("no answer\nfor minutes")

    monkeypatch.setattr(wandb_run, "close", gone)
    assert log_run(CSVLogger(str(tmp_path)), logged) == "TimeoutError: no answer"
    monkeypatch.setattr(CSVLogger, "log_metrics", lambda *given: 1 / 0)
    assert log_run(CSVLogger(str(tmp_path)), logged) == "ZeroDivisionError: division by zero", "what came first"


def test_tensorboard_shows_curves_and_pictures(logged, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert log_run(tensorboard_logger(str(tmp_path)), logged) is None
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(one.step, one.value) for one in events.Scalars("tokens/tokens_pruned")] == [(0, 130.5), (1, 66.0)]
    assert "curves vision/key_cosine (shuffled 0)" in events.Tags()["scalars"]
    assert events.Tags()["images"] == ["pictures/survivors_vision"]


@pytest.mark.parametrize(
    ("module", "make", "extra"),
    [("wandb", wandb_logger, "wandb"), ("tensorboard", tensorboard_logger, "tensorboard")],
)
def test_a_missing_package_is_one_line(tmp_path, monkeypatch, module, make, extra):
    import lightning.fabric.loggers.tensorboard as boards
    import lightning.pytorch.loggers.wandb as bee

    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(bee, "_WANDB_AVAILABLE", False)
    monkeypatch.setattr(boards, "_TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr(boards, "_TENSORBOARDX_AVAILABLE", False)
    with pytest.raises(SaintpruneError, match=rf"pip install 'saintprune\[{extra}\]'"):
        make(str(tmp_path))
