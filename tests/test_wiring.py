"""Whole runs on a small random network and noise, and every mistake that a user can make."""

import json
import re

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from lightning.pytorch.loggers import CSVLogger
from omegaconf import OmegaConf
from PIL import Image

from saintprune import config, wiring, wiring_calibration
from saintprune.config import compose_run, config_dir, register
from saintprune.errors import SaintpruneError
from saintprune.models import corrections
from saintprune.reporting.loggers import group_of
from saintprune.reporting.records import RunRecord
from small_run import NETWORK
from wandb_reader import history, keep_offline, read_run

SMALL = [
    *NETWORK,
    "dataset=synthetic",
    "dataset.size=10",
    "hardware=cpu",
    "hardware.batch_size=4",
    "hardware.num_workers=0",
    "benchmark.pairs=5",
    "calibration.samples=8",
    "calibration.steps=4",
]


@pytest.fixture
def run(tmp_path, capsys):
    """Compose a small run with overrides, do it, and return what it recorded and printed."""

    done = []

    def do(*overrides, names=None, sweep=None):
        register()
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            cfg = compose("config", [*SMALL, *overrides])
        done.append(cfg)
        folder = tmp_path / ("out" if len(done) == 1 else f"out{len(done)}")
        record = wiring.run(cfg, folder, names or {"dataset": "synthetic", "pruning": "tested"}, sweep)
        return record, capsys.readouterr().out.replace("\n", "")

    return do


def test_evaluate_scores_times_and_records(run, tmp_path):
    record, printed = run("pruning=random")
    assert RunRecord.read(tmp_path / "out" / "metrics.json").delta == json.loads(json.dumps(record.delta))
    assert record.num_samples == 10 and record.baseline["accuracy"] is None and 0 <= record.agreement <= 1
    assert record.pruned["tokens_per_layer"][-1] == 9.0 and record.baseline["tokens_per_layer"] == [17.0] * 12
    assert record.delta["speedup"] > 0 and record.delta["gflops_ratio"] < 1
    assert record.config["task"] == "evaluate" and record.sources["model"]["weights"] == "random"
    assert "images per second" in printed and printed.rstrip().endswith("metrics.json")
    assert (tmp_path / "out" / "csv" / "metrics.csv").is_file()


def test_the_record_names_the_data_as_it_is_called(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(tmp_path / "images" / name / "1.png")
    network = [override for override in SMALL if not override.startswith("dataset")]
    images = ["dataset=imagefolder", f"dataset.path={tmp_path / 'images'}", "dataset.name=pets"]
    cfg, names = compose_run([*network, *images, "pruning=none", "task=benchmark"])
    record = wiring.run(cfg, tmp_path / "out", names)
    assert (names["dataset"], record.dataset) == ("imagefolder", "pets")


def test_benchmark_only_times(run):
    record, _ = run("task=benchmark", "pruning=none")
    assert record.num_samples == 0 and record.agreement is None and record.delta["gflops_ratio"] == 1.0


def test_calibrate_writes_a_pruning_that_loads(run, tmp_path, monkeypatch):
    conf = tmp_path / "conf"
    monkeypatch.setattr(wiring_calibration, "own_config_dir", lambda: conf)
    record, printed = run(
        "task=calibrate", "pruning=tome", "calibration.target=flops:0.7", names={"dataset": "s", "pruning": "tome r=3"}
    )
    assert record.calibration["knob"] == "schedule.drop" and record.calibration["measured"]["flops"] <= 0.7
    assert "pruning=vit_s14/tome_flops0.7" in printed
    written = (conf / "pruning" / "vit_s14" / "tome_flops0.7.yaml").read_text()
    assert "calibrated" in written and "${" not in written
    monkeypatch.setattr(config, "own_config_dir", lambda: conf)
    again, _ = run("task=benchmark", "pruning=vit_s14/tome_flops0.7")
    assert again.delta["gflops_ratio"] == pytest.approx(record.calibration["measured"]["flops"], abs=0.01)


@pytest.mark.parametrize(
    ("pruning", "knob", "looks"),
    [("downsample", "resize", 1), ("glance", "defer", 1), ("glance_then_ward", "defer", 2)],
)
def test_calibrated_values_of_a_plan_itself_are_written(run, monkeypatch, tmp_path, pruning, knob, looks):
    conf = tmp_path / "conf"
    monkeypatch.setattr(wiring_calibration, "own_config_dir", lambda: conf)
    record, _ = run("task=calibrate", f"pruning={pruning}", "calibration.target=flops:0.9")
    written = OmegaConf.load(next(conf.rglob("*.yaml")))
    assert record.calibration["knob"] == knob and written[knob] == record.calibration["value"]
    assert len(instantiate(written, _convert_="all").looks) == looks


CORRECTED = ["dataset.size=32", "calibration.correct=100"]


@pytest.mark.parametrize(("pruning", "looks"), [("tome", 1), ("glance_then_ward", 2)])
def test_a_corrected_pruning_is_written_and_loads(run, monkeypatch, tmp_path, pruning, looks):
    conf = tmp_path / "conf"
    monkeypatch.setattr(wiring_calibration, "own_config_dir", lambda: conf)
    monkeypatch.setattr(corrections, "config_file", lambda name: conf / name)
    asked = ["task=calibrate", f"pruning={pruning}", "calibration.target=flops:0.95"]
    record, printed = run(*asked, *CORRECTED, names={"dataset": "s", "pruning": pruning})
    assert record.calibration["correction"]["images"] == 24, "all after those of the calibration"
    assert len(record.calibration["correction"]["penalties"]) == looks and "corrected the classifier: Corr" in printed
    written = OmegaConf.load(next(conf.rglob("*.yaml")))
    plan = instantiate(written, _convert_="all")
    assert [repr(look.correction) for look in plan.looks] == re.findall(r"Correction\(.*?\)", printed)
    found = {"model": {"name": "a"}, "calibration": {"correct": None}, "pruning": written}
    assert repr(wiring._plan(OmegaConf.create(found)).correction) == repr(plan.correction)
    for change in ("resize=0.3", "stages.vision.schedule.drop=0.31", "second={stages:{},defer:null,second:null}"):
        found["pruning"] = OmegaConf.merge(written, OmegaConf.from_dotlist([change]))
        if looks == 1 or "second" not in change:
            with pytest.raises(SaintpruneError, match=r"corrected for other stages.*pruning\.correction=null"):
                wiring._plan(OmegaConf.create(found))
    next(conf.rglob("*.safetensors")).write_bytes(b"")
    with pytest.raises(Exception, match=r"holds no correction for look \d of a plan"):
        instantiate(written, _convert_="all")
    corrections.write(next(conf.rglob("*.safetensors")), plan.corrected([plan.correction] * looks))
    if looks == 2:
        with pytest.raises(Exception, match="is not the file that was written with its pruning"):
            instantiate(written, _convert_="all")


def test_without_a_target_the_classifier_is_corrected_all_the_same(run):
    plain, _ = run("pruning=tome", "dataset.size=32")
    record, _ = run("pruning=tome", *CORRECTED)
    assert list(record.calibration) == ["correction"] and plain.calibration is None
    assert record.identity != plain.identity and record.output_cosine != plain.output_cosine


def test_a_target_calibrates_before_evaluating(run):
    record, _ = run("pruning=attention", "calibration.target=tokens:0.6")
    assert record.calibration["measured"]["tokens"] <= 0.6
    assert sum(record.pruned["tokens_per_layer"]) / sum(record.baseline["tokens_per_layer"]) <= 0.6


def test_a_calibration_for_another_model_is_pointed_out(run):
    _, printed = run("task=benchmark", "pruning=vit_s14/saint_speedup2", "model.name=another")
    assert "calibrated for vit_s14; thresholds do not transfer" in printed


def test_a_collapse_is_pointed_out(run):
    _, printed = run("task=benchmark", "pruning=random", "pruning.stages.vision.schedule.drop=1.0")
    assert "only 2 of 17 tokens are left" not in printed
    _, printed = run(
        "task=benchmark", "pruning=random", "pruning.stages.vision.schedule.drop=1.0", "model.net.img_size=128"
    )
    assert "only 2 of 65 tokens are left at the end" in printed and "task=calibrate" in printed


def test_bf16(run):
    record, _ = run("task=benchmark", "pruning=tome", "hardware=cpu_bf16", "hardware.batch_size=4")
    assert record.hardware["precision"] == "bf16-true"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+pruning.stages.vision.method.treshold=1"], "no 'treshold' .did you mean 'threshold'.*it takes threshold"),
        (["pruning.stages.vision.method.threshold=abc"], "threshold is 'abc', but must be float or int"),
        (["pruning.stages.vision.method.threshold=7"], r"stages\.vision\.method: threshold is 7"),
        (["pruning.stages.vision.layers=[14]"], r"has 14, but the network has 12 blocks \(0..11\)"),
        (["pruning=random", "pruning.stages.vision.schedule=null"], "give the stage a schedule"),
        (["pruning.stages.vision.method._target_=saintprune.reduction.saint.Sain"], "Sain"),
        (["task=calibrate"], "calibration.target=flops:0.5"),
        (["pruning=tome", "calibration.correct=0"], "calibration.correct is 0, but must be at least 1"),
        (["pruning=tome", "calibration.correct=8"], "on 10 images at least, better on hundreds, but there are 2"),
        (["pruning=tome", "calibration.correct=8", "calibration.samples=12"], "has no more: take fewer samples"),
        (["task=calibrate", "calibration.target=speedup:0.5"], "impossible"),
        (["calibration.target=flops:0.01"], "out of reach.*gets to FLOPs"),
        (["pruning=none", "calibration.target=flops:0.5"], "KeepAll prunes nothing"),
        (["benchmark.pairs=0"], "benchmark: pairs is 0"),
        (["calibration.target=flops:0.5", "calibration.pairs=0"], "calibration.pairs is 0"),
        (["calibration.target=flops:0.5", "calibration.head=held_out"], "calibration.head=held_out: there is no file"),
        (["+pruning.defer=2"], "defer is 2, but must be a difference of probabilities"),
        (["+pruning.stages.x=1"], "stages.x is 1, but must be a stage"),
        (["hardware.batch_size=0"], "batch_size is 0"),
        (["model.adapter.pool=mean"], "pool is 'mean'"),
        (["+dataset.sise=3"], "dataset: Synthetic has no 'sise' .did you mean 'size'"),
        (["+hardware.batchsize=3"], "hardware: HardwareProfile has no 'batchsize'"),
        (["model.net.architecture=vit_tiny_patch16_225"], "did you mean"),
        (["model.adapter._target_=saintprune.adapters.timm_eva.TimmEva"], "TimmViT"),
        (["logger._target_=saintprune.reporting.loggers.nothing"], "nothing"),
    ],
)
def test_mistakes_are_one_clear_line_and_leave_no_record(run, tmp_path, overrides, message):
    with pytest.raises(SaintpruneError, match=message) as error:
        run(*overrides)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "metrics.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_missing_device_is_told_before_anything_loads(run):
    with pytest.raises(SaintpruneError, match="hardware=a100 needs cuda"):
        run("hardware=a100")


def test_jobs_of_a_sweep_are_wandb_runs_of_their_own(run, tmp_path, monkeypatch):
    keep_offline(monkeypatch, tmp_path)
    for _ in range(2):
        run("task=benchmark", "logger=wandb", "pruning=random", sweep=tmp_path)
    runs = [read_run(tmp_path / name) for name in ("out", "out2")]
    assert len({found["run"][-1]["run_id"] for found in runs}) == 2
    assert {found["run"][-1]["run_group"] for found in runs} == {group_of(tmp_path)}
    assert all(any("pictures/survivors_vision._type" in row for row in history(found)) for found in runs)


def test_a_logger_that_fails_leaves_the_record(run, tmp_path, monkeypatch):
    def fails(*args):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(CSVLogger, "log_metrics", fails)
    _, printed = run("task=benchmark", "pruning=none")
    assert "the record is written, but not logged: ConnectionError: no" in printed
    assert RunRecord.read(tmp_path / "out" / "metrics.json").delta["speedup"] > 0
