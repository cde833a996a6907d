"""What goes wrong while a run is logged costs a line, and no more than what could not be done."""

from types import SimpleNamespace

import pytest
from PIL import Image

from records import record
from saintprune import wiring, wiring_analysis, wiring_logging
from saintprune.analysis.settings import AnalysisSettings
from saintprune.config import compose_run
from saintprune.errors import SaintpruneError
from small_run import NETWORK
from wandb_reader import keep_offline

SMALL = [
    *NETWORK, "hardware=cpu", "hardware.batch_size=2", "hardware.num_workers=0",
    "benchmark.pairs=1", "benchmark.max_seconds=0", "benchmark.batches=1", "task=benchmark", "pruning=random",
]  # fmt: skip


@pytest.fixture
def log(tmp_path, monkeypatch, capsys):
    """Log a record with a logger that shows pictures; return what is printed."""
    monkeypatch.setattr(wiring_logging, "shows_pictures", lambda logger: True)
    path = record().write(tmp_path / "metrics.json")

    def do():
        wiring_logging.log("logger", record(), path, SimpleNamespace(), AnalysisSettings())
        return capsys.readouterr().out.replace("\n", " ").strip()

    return do


@pytest.mark.parametrize(
    ("error", "line"), [(SaintpruneError("no [input_size]"), "no [input_size]"), (KeyError(3), "KeyError: 3")]
)
def test_a_run_whose_pictures_cannot_be_drawn_is_logged(log, monkeypatch, error, line):
    def fails(*given):
        raise error

    logged = []
    monkeypatch.setattr(wiring_logging, "draw_survivors", fails)
    monkeypatch.setattr(wiring_logging, "log_run", lambda logger, what: logged.append(what.record.delta["speedup"]))
    assert log() == f"the run is logged without pictures: {line}"
    assert logged == [2.1]


def test_whatever_is_raised_while_logging_costs_a_line(log, monkeypatch):
    def fails(*given):
        raise RuntimeError("gone\nwith more")

    monkeypatch.setattr(wiring_logging, "draw_survivors", lambda *given: None)
    monkeypatch.setattr(wiring_logging, "log_run", fails)
    assert log() == "the record is written, but not logged: RuntimeError: gone"


def test_pictures_are_of_test_images(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(wiring_analysis, "pictures_of", lambda parts, settings: asked.append(settings.split))
    wiring_logging.draw_survivors(SimpleNamespace(), AnalysisSettings(split="train"), tmp_path)
    assert asked == ["test"]


def test_a_dataset_without_training_images_is_shown(tmp_path, monkeypatch, capsys):
    keep_offline(monkeypatch, tmp_path)
    for number in range(4):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (60 * number, 0, 0)).save(path)
    overrides = [*SMALL, "dataset=imagefolder", f"dataset.path={tmp_path}/images", "logger=wandb"]
    cfg, names = compose_run(overrides)
    wiring.run(cfg, tmp_path / "out", names)
    printed = capsys.readouterr().out
    assert "not logged" not in printed and "without pictures" not in printed
    assert (tmp_path / "out" / "figures" / "survivors_vision.png").is_file()


def test_noise_for_a_language_model_has_no_pictures():
    parts = SimpleNamespace(model="a model", adapter="its adapter", data="noise")
    assert wiring_analysis.pictures_of(parts, AnalysisSettings()) is None
