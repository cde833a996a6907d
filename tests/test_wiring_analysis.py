"""Whole analyses of small random networks, the stages that plans take from them, and the mistakes that users make."""

import csv
import json

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf, open_dict

import tiny_questions
import tiny_vlm
from saintprune import wiring, wiring_analysis
from saintprune.analysis import report
from saintprune.analysis.curves import Curves
from saintprune.config import config_dir, register
from saintprune.errors import SaintpruneError
from saintprune.models.language import LoadedLanguage
from saintprune.reporting.records import RunRecord
from small_run import NETWORK

SMALL = [
    "task=analyze", *NETWORK, "dataset=synthetic", "dataset.size=10", "hardware=cpu",
    "hardware.batch_size=4", "hardware.num_workers=0", "analysis.samples=6", "analysis.twins=1", "analysis.draws=19",
    "analysis.sensitivity=0", "analysis.pictures=1", "pruning=random", "pruning.stages.vision.layers=[2]",
]  # fmt: skip
ADAPTER = {"_target_": "saintprune.adapters.vlm.VLM", "position_policy": "absolute", "cache": "keep"}
QUESTIONS = {"_target_": "tiny_questions.Questions", "limit": None}


@pytest.fixture
def stages(tmp_path, monkeypatch):
    """Keep the stages of models below a temporary folder; return where."""
    monkeypatch.setattr(wiring_analysis, "own_config_dir", lambda: tmp_path)
    monkeypatch.setattr(wiring_analysis, "config_file", lambda name: tmp_path / name)
    return tmp_path / "stages"


@pytest.fixture
def run(tmp_path, capsys, stages):
    """Compose a small analysis with overrides, do it, and return its folder, its record and what it printed."""

    done = []

    def do(*overrides, change=lambda cfg: None):
        register()
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            cfg = compose("config", [*SMALL, *overrides])
        with open_dict(cfg):
            change(cfg)
        OmegaConf.resolve(cfg)
        done.append(folder := tmp_path / f"out{len(done)}")
        record = wiring.run(cfg, folder, {"dataset": "noise", "pruning": "tested"})
        return folder, record, capsys.readouterr().out

    return do


def small_vlm(cfg):
    cfg.model = {"name": "tiny", "net": {"_target_": "test_wiring_analysis.load_vlm"}, "adapter": ADAPTER}
    cfg.dataset = QUESTIONS


def load_vlm(pretrained=True, checkpoint=None, seed=0):
    """A vision-language model of four layers that reads bytes."""
    return tiny_questions.load()


def load_decoder(pretrained=True, checkpoint=None, seed=0):
    """A decoder of four layers that reads bytes."""
    return LoadedLanguage(tiny_vlm.load().net.model.language_model, tiny_vlm.tokenizer(), "Llama", {"seed": seed})


def small_decoder(cfg, path):
    net = {"_target_": "test_wiring_analysis.load_decoder"}
    adapter = {"_target_": "saintprune.adapters.hf_decoder.HFDecoder"}
    cfg.model = {"name": "tiny", "net": net, "adapter": adapter}
    cfg.dataset = {"_target_": "saintprune.data.text.TextData", "path": str(path), "tokens": 16, "limit": None}


def test_an_image_network(run, stages):
    folder, record, printed = run("analysis.sensitivity=4", "analysis.share=0.5")
    assert RunRecord.read(folder / "metrics.json").analysis == json.loads(json.dumps(record.analysis))
    assert record.task == "analyze" and record.num_samples == 8, "whole batches"
    assert record.baseline["throughput"] is None and record.delta["speedup"] is None
    part = record.analysis["parts"]["vision"]
    assert part["layers"] == 12 and part["images"] == 8 and "verdict" in part["by_raw_cosines"]
    rows = record.analysis["sensitivity"]
    assert {row["method"] for row in rows} == {"random", "saint", "tome"} and len(rows) == 36
    with (folder / "sensitivity.csv").open(newline="") as file:
        assert [float(row["feature_cosine"]) for row in csv.DictReader(file)] == [row["feature_cosine"] for row in rows]
    assert {path.name for path in (folder / "curves" / "vision").iterdir()} == {"own", "initialised-0", "shuffled-0"}
    own = Curves.load(folder / "curves" / "vision" / "own")
    assert own.images == 8 and own.meta["weights"] == "own" and own.meta["split"] == "train"
    assert own.meta["dataset"] == record.dataset == "synthetic", "what the data is called, not what was chosen"
    for name in ("vision/curves", "vision/curves_raw", "vision/heatmap", "vision/distributions", "sensitivity"):
        assert (folder / "figures" / f"{name}.png").is_file() and (folder / "figures" / f"{name}.svg").is_file()
    assert (folder / "figures" / "similarity_0.png").is_file() and (
        folder / "figures" / "survivors_vision.png"
    ).is_file()
    page = (folder / "analysis.html").read_text(encoding="utf-8")
    assert "three stages" in page and 'src="data:image' in page and "http" not in page.replace("http://www.w3.org", "")
    assert "vision: no three stages" in printed and "analysis.html" in printed.replace("\n", "")
    kept = yaml.safe_load((stages / "vit_s14.yaml").read_text(encoding="utf-8"))
    assert kept == yaml.safe_load((folder / "stages.yaml").read_text(encoding="utf-8"))
    assert kept["parts"]["vision"] == part


@pytest.fixture
def few_figures(monkeypatch):
    """Leave out the figures of each part, which take seconds; `test_an_image_network` draws them."""
    monkeypatch.setattr(report, "part_figures", lambda folder, part: [])


def test_stages_are_replaced_only_on_request(run, stages, few_figures):
    stages.mkdir()
    kept = stages / "vit_s14.yaml"
    kept.write_text("parts: {}\n")
    _, _, printed = run("analysis.twins=0", "analysis.pictures=0")
    assert kept.read_text() == "parts: {}\n" and "analysis.save=true replaces them" in printed
    run("analysis.twins=0", "analysis.pictures=0", "analysis.save=true")
    assert "vision" in yaml.safe_load(kept.read_text())["parts"]


def test_a_plan_prunes_the_blocks_of_a_named_stage(run, stages):
    stages.mkdir()
    entry = {"boundaries": {"aligner": [1, 3]}, "best_three": [[0, 3], [3, 8], [8, 12]], "three_stages": True}
    content = {"model": "vit_s14", "parts": {"vision": {"layers": 12, "verdict": "", **entry}}}
    (stages / "vit_s14.yaml").write_text(yaml.safe_dump(content))
    _, record, printed = run("task=benchmark", "benchmark.pairs=5", "pruning.stages.vision.layers=aligner")
    after = record.pruned["tokens_per_layer"]
    assert [one < before for one, before in zip(after, [17.0, *after[:-1]], strict=True)] == [
        layer in (1, 2) for layer in range(12)
    ]
    assert "note:" not in printed
    _, record, printed = run("task=benchmark", "benchmark.pairs=5", "pruning.stages.vision.layers=explorer")
    assert record.pruned["tokens_per_layer"][2] == 17.0 > record.pruned["tokens_per_layer"][3]
    assert "no stage that behaves like an explorer" in printed.replace("\n", " ")


def test_a_vision_language_model(run, few_figures):
    method = "{_target_: saintprune.reduction.baselines.RandomDrop, seed: 0}"
    schedule = "{_target_: saintprune.plan.Schedule, drop: 0.5}"
    stage = f"{{_target_: saintprune.plan.Stage, site: language, layers: [1], method: {method}, schedule: {schedule}}}"
    folder, record, _ = run("pruning.stages.vision.layers=[0]", f"+pruning.stages.language={stage}", change=small_vlm)
    parts = ["vision", "language/vision-vision", "language/text-text", "language/vision-text"]
    assert list(record.analysis["parts"]) == parts and record.analysis["sensitivity"] == []
    assert "4 layers are too few" in record.analysis["parts"]["language/text-text"]["verdict"]
    for site in ("vision", "language"):
        assert (folder / "figures" / f"survivors_{site}.png").is_file()
    assert (folder / "curves" / "language-vision-text" / "shuffled-0" / "layers.csv").is_file()


def test_a_language_model(run, tmp_path, few_figures):
    text = tmp_path / "text.txt"
    text.write_text("How much wood would a woodchuck chuck if a woodchuck could chuck wood? " * 20)
    _, record, printed = run(change=lambda cfg: small_decoder(cfg, text))
    assert list(record.analysis["parts"]) == ["language/text-text"] and record.num_samples == 8
    assert "calibrated for" not in printed
    with pytest.raises(SaintpruneError, match=r"analysis\.sensitivity is 4, but model=tiny has no image tokens"):
        run("analysis.sensitivity=4", change=lambda cfg: small_decoder(cfg, text))
    with pytest.raises(SaintpruneError, match=r"model=tiny has no image tokens to prune: it is there for task=analyze"):
        run("task=benchmark", change=lambda cfg: small_decoder(cfg, text))
    with pytest.raises(SaintpruneError, match=r"hardware.compile=true is for timm networks, not for LlamaModel"):
        run("hardware.compile=true", change=lambda cfg: small_decoder(cfg, text))


def test_a_language_model_needs_text(run, tmp_path):
    def images(cfg):
        dataset = cfg.dataset
        small_decoder(cfg, tmp_path)
        cfg.dataset = dataset

    with pytest.raises(SaintpruneError, match="reads text, but dataset=noise has none: choose dataset=text"):
        run(change=images)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["analysis.split=validation"], "split is 'validation', but must be 'train' or 'test'"),
        (["analysis.samples=0"], "samples is 0, but must be at least 1"),
        (["analysis.draws=5"], "draws is 5"),
        (["analysis.share=1.5"], "share is 1.5"),
        (["analysis.site=tower"], "site is 'tower'"),
        (["analysis.sensitivity=-1"], "sensitivity is -1"),
        (["analysis.sensitivity=4", "analysis.site=language"], "site='language' has no layers"),
        (["+analysis.smaples=3"], r"AnalysisSettings has no 'smaples' \(did you mean 'samples'\?\)"),
        (["task=benchmark", "pruning.stages.vision.layers=aligner"], r"vit_s14.yaml is missing: run task=analyze"),
        (["pruning.stages.vision.layers=alinger"], "layers is 'alinger', but must be .* or a stage: aligner, expl"),
    ],
)
def test_mistakes(run, overrides, message):
    with pytest.raises(SaintpruneError, match=message):
        run(*overrides)
