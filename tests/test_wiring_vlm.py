"""Whole runs of a tiny vision-language model, and every mistake that a user can make with one."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf, open_dict

from saintprune import wiring, wiring_vlm
from saintprune.config import config_dir, register
from saintprune.errors import SaintpruneError
from saintprune.reporting.records import RunRecord

SMALL = [
    "model=vit_s14", "model.name=tiny", "hardware=cpu", "hardware.batch_size=3", "hardware.num_workers=0",
    "benchmark.pairs=5", "benchmark.new_tokens=4", "benchmark.text_tokens=10",
]  # fmt: skip
RANDOM = [
    "pruning=random_language", "pruning.stages.language.layers=[1]", "pruning.stages.language.schedule.drop=0.75"
]  # fmt: skip
ADAPTER = {"_target_": "saintprune.adapters.vlm.VLM", "position_policy": "absolute", "cache": "keep"}
QUESTIONS = {"_target_": "tiny_questions.Questions", "limit": None}


@pytest.fixture
def run(tmp_path, capsys):
    """Compose a small run with overrides, do it, and return what it recorded and printed."""

    def do(*overrides, plan=RANDOM, model=None, dataset=QUESTIONS):
        register()
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            cfg = compose("config", [*SMALL, *plan, *overrides])
        with open_dict(cfg):
            cfg.model.net = {"_target_": "tiny_questions.load", **(model or {})}
            cfg.model.adapter = ADAPTER
            cfg.dataset = dataset or cfg.dataset
        OmegaConf.resolve(cfg)
        record = wiring.run(cfg, tmp_path / "out", {"dataset": "questions", "pruning": "tested"})
        return record, capsys.readouterr().out

    return do


def test_evaluate_scores_times_and_records(run, tmp_path):
    record, printed = run()
    assert RunRecord.read(tmp_path / "out" / "metrics.json").delta["speedup"] == record.delta["speedup"]
    assert record.num_samples == 7 and record.samples_by_kind == {"a": 4, "b": 3}
    assert 0 <= record.agreement <= 1 and 0 <= record.likelihood_agreement <= 1 and record.output_cosine is None
    for arm in (record.baseline, record.pruned):
        assert arm["accuracy"] is not None and arm["likelihood_accuracy_by_kind"].keys() == {"a", "b"}
        assert arm["throughput"] > 0 and arm["gflops"] > arm["gflops_prefill"] > 0 and arm["kv_cache_bytes"] > 0
    assert record.baseline["visual_tokens_per_layer"] == [16.0] * 4
    assert record.pruned["visual_tokens_per_layer"] == [16.0, 4.0, 4.0, 4.0]
    assert record.delta["gflops_prefill_ratio"] < 1 and record.delta["kv_cache_ratio"] < 1
    assert record.delta["ttft_speedup"] > 0 and record.benchmark["new_tokens"] == 4 and record.extrapolated is None
    for words in ("time to first token, ms", "accuracy by likelihood", "KV cache", "  a (4)", "answers of 4 tokens"):
        assert words in printed
    assert "image tokens that leave each decoder layer, pruned:   16 4x3" in printed
    assert (tmp_path / "out" / "csv" / "metrics.csv").is_file()


def test_benchmark_only_times(run):
    plan = ["pruning=saint_hybrid", "pruning.stages.vision.layers=[0]", "pruning.stages.language.layers=[1]"]
    record, printed = run("task=benchmark", plan=plan)
    assert record.num_samples == 0 and record.agreement is None and record.baseline["accuracy"] is None
    assert record.delta["accuracy"] is None and record.baseline["tower_tokens_per_block"] == [17.0] * 2
    assert "accuracy" not in printed and "tower tokens per block" in printed


def test_noise_needs_no_processor(run):
    record, _ = run("task=benchmark", "dataset=synthetic", dataset=None)
    assert record.benchmark["prompt_tokens"] == 26.0 and record.benchmark["batch_size"] == 3


def test_a_few_layers_stand_for_all(run):
    record, printed = run(
        "task=benchmark", "dataset=synthetic", "pruning.stages.language.layers=[10]",
        dataset=None, model={"depth": 2, "published": 12},
    )  # fmt: skip
    assert record.extrapolated["sampled_layers"] == 2 and record.extrapolated["depth"] == 12
    assert len(record.pruned["tokens_per_layer"]) == 12 and record.pruned["visual_tokens_per_layer"][-1] == 4.0
    assert "extrapolated from 2 layers" in printed.replace("\n", " ") and "peak memory" not in printed


@pytest.mark.parametrize("few", [0.06, 0.07])
def test_next_to_nothing_left_is_pointed_out(run, monkeypatch, few):
    monkeypatch.setattr(wiring_vlm, "FEW", few)
    _, printed = run("task=benchmark", "pruning.stages.language.schedule.drop=1.0")
    assert ("note: only 1 of 16 image tokens are left at the end" in printed) == (few > 1 / 16)


@pytest.mark.parametrize(
    ("overrides", "more", "message"),
    [
        (["dataset=elpv"], {"dataset": None}, "asks no questions, but model=tiny answers such: .*dataset=elpv_vqa"),
        (["task=analyze", "dataset=elpv"], {"dataset": None}, "asks no questions, but model=tiny answers such"),
        (["dataset=synthetic"], {"dataset": None}, "asks no questions.*task=benchmark dataset=synthetic"),
        (["task=calibrate", "calibration.target=flops:0.5"], {}, "calibration is for networks that only look"),
        (["calibration.correct=8"], {}, "calibration is for networks that only look"),
        (["calibration.target=flops:0.5"], {}, "calibration is for networks that only look"),
        (["hardware.compile=true"], {}, "hardware.compile=true is for timm networks"),
        ([], {"model": {"published": 12}}, "only some layers are built.*task=benchmark dataset=synthetic"),
        ([], {"model": {"reads": False}}, "random weights cannot read questions: take model.pretrained=true"),
        (["pruning.stages.language.layers=[4]"], {}, "has 4, but the network has 4 blocks"),
        (
            ["task=benchmark", "dataset=synthetic"],
            {"dataset": None, "plan": ["pruning=saint_language"], "model": {"published": 18}},
            "Saint decides by what it sees",
        ),
        (["benchmark.new_tokens=1"], {}, "benchmark: new_tokens is 1"),
        ([], {"dataset": {**QUESTIONS, "limt": 3}}, "dataset.*limt"),
        ([], {"dataset": {**QUESTIONS, "limit": 0}}, "dataset.limit is 0"),
    ],
)
def test_mistakes_are_one_clear_line_and_leave_no_record(run, tmp_path, overrides, more, message):
    with pytest.raises(SaintpruneError, match=message) as error:
        run(*overrides, **more)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_a_network_without_language_is_asked_nothing(tmp_path):
    register()
    GlobalHydra.instance().clear()
    overrides = [
        "model.net.architecture=vit_tiny_patch16_224", "model.net.weights=hub", "model.net.img_size=64",
        "model.pretrained=false", "model.head=none", "dataset=elpv_vqa", "hardware=cpu",
    ]  # fmt: skip
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("config", overrides)
    with pytest.raises(SaintpruneError, match="dataset=elpv_vqa asks questions, but model=vit_s14 only looks at"):
        wiring.run(cfg, tmp_path, {"dataset": "elpv_vqa", "pruning": "saint"})
