"""Figures, table and plot of a vision-language model's run."""

import io

import pytest
from rich.console import Console

from saintprune.reporting.assemble import vlm_figures
from saintprune.reporting.loggers import flat_figures
from saintprune.reporting.plots import sweep_figure
from saintprune.reporting.records import RunRecord
from saintprune.reporting.results import row
from saintprune.reporting.tables import run_table, sweep_table


def scored(accuracy, **more):
    return {
        "accuracy": accuracy, "accuracy_by_kind": {"defect": accuracy - 0.1, "type": accuracy + 0.1},
        "likelihood_accuracy": accuracy, "likelihood_accuracy_by_kind": {"defect": accuracy, "type": accuracy},
        "tokens_per_layer": [290.0, 290.0], "visual_tokens_per_layer": [256.0, 256.0], "tower_tokens_per_block": None,
        **more,
    }  # fmt: skip


def timed(scale):
    return {
        "throughput": 2.0 / scale, "ttft_seconds": 1.5 * scale, "tower_seconds": 0.25, "ms_per_token": 50.0,
        "answer_seconds": 2.0 * scale, "gflops": 90.0 * scale, "gflops_prefill": 80.0 * scale,
        "gflops_decode_per_token": 0.5, "kv_cache_bytes": 4 * 2**20 * scale, "peak_memory_mib": None,
        "tokens_per_layer": [289.0, 289.0], "visual_tokens_per_layer": [256.0, 256.0], "tower_tokens_per_block": None,
    }  # fmt: skip


SCORES = {
    "num_samples": 100, "samples_by_kind": {"defect": 50, "type": 50}, "baseline": scored(0.8),
    "pruned": scored(0.75, visual_tokens_per_layer=[256.0, 128.0], tower_tokens_per_block=[129.0, 100.0]),
    "accuracy_change_ci95": (-0.1, 0.0), "likelihood_accuracy_change_ci95": (-0.08, -0.02), "agreement": 0.9,
    "likelihood_agreement": 0.95,
}  # fmt: skip
TIMING = {
    "baseline": timed(1.0), "pruned": timed(0.5), "speedup": 1.8, "speedup_ci95": (1.7, 1.9), "ttft_speedup": 2.0,
    "ttft_speedup_ci95": (1.9, 2.1), "decode_speedup": 1.0, "decode_speedup_ci95": (0.9, 1.1), "new_tokens": 16,
    "selector_overhead": 0.01, "efficiency": 0.98, "pairs": 30, "extrapolated": None, "faster_for_tokens": (1, None),
}  # fmt: skip


def record(scores=SCORES, timing=TIMING):
    return RunRecord(task="evaluate", model="m", dataset="d", pruning="p", **vlm_figures(scores, timing))


def text(renderable):
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def test_figures():
    found = vlm_figures(SCORES, TIMING, lambda rate: rate / 1e12)
    assert found["delta"]["accuracy"] == pytest.approx(-0.05) and found["delta"]["speedup"] == 1.8
    assert found["delta"]["gflops_ratio"] == found["delta"]["kv_cache_ratio"] == 0.5
    assert found["baseline"]["tokens_per_layer"] == [290.0, 290.0], "of all questions, not of the timed batches"
    assert found["baseline"]["share_of_peak"] == pytest.approx(0.18)
    assert found["benchmark"].keys() == {"new_tokens", "selector_overhead", "efficiency", "pairs", "faster_for_tokens"}
    assert SCORES["baseline"] and TIMING["baseline"], "what was given is left as it was"


def test_the_keys_that_anything_reads_are_there():
    for found in (record(), record(scores=None), record(timing=None)):
        for arm in (found.baseline, found.pruned):
            assert {"accuracy", "throughput", "gflops", "tokens_per_layer"} <= arm.keys()
        assert {"accuracy", "speedup", "speedup_ci95", "gflops_ratio"} <= found.delta.keys()


def test_a_record_comes_back_as_written(tmp_path):
    path = record().write(tmp_path / "metrics.json")
    found = RunRecord.read(path)
    assert found.likelihood_agreement == 0.95 and found.benchmark["faster_for_tokens"] == [1, None]


def test_a_record_from_before_is_read(tmp_path):
    path = record().write(tmp_path / "metrics.json")
    added = ("likelihood_agreement", "samples_by_kind", "extrapolated")
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith('  "extrapolated"'))
    path.write_text(text)
    assert RunRecord.read(path).extrapolated is None and set(added) <= set(RunRecord.__dataclass_fields__)


def test_table_sets_side_by_side():
    shown = text(run_table(record()))
    for cell in ("80.0 %", "-5.0 (-10.0 to +0.0)", "-5.0 (-8.0 to -2.0)", "1.80x (1.70–1.90)", "2.00x (1.90–2.10)",
                 "answers of 16 tokens per second", "defect (50)", "1,500", "4.0", "114.5", "1.00 %"):  # fmt: skip
        assert cell in shown
    assert "peak memory" not in shown and "extrapolated" not in shown


def test_tables_say_what_was_predicted():
    predicted = record(scores=None, timing={**TIMING, "extrapolated": {"sampled_layers": 2, "depth": 40}})
    assert "pruning=p, extrapolated from 2 layers" in text(run_table(predicted))
    assert "p, extrapolated from 2 layers" in text(sweep_table([predicted]))
    assert "accuracy" not in text(run_table(predicted))


def test_scores_alone():
    shown = text(run_table(record(timing=None)))
    assert "first token, ms" not in shown and "80.0 %" in shown


def test_the_figure_of_a_sweep_says_what_is_faster(tmp_path):
    path = sweep_figure([record()], tmp_path / "sweep.png")
    assert "speed-up of an answer of 16 tokens" in _text_of_svg(path.with_suffix(".svg"))


def _text_of_svg(path):
    return path.read_text()


def test_flat_figures_are_numbers():
    flat = flat_figures(record().__dict__)
    assert flat["delta/ttft_speedup"] == 2.0 and flat["pruned/accuracy_by_kind/type"] == 0.85
    assert flat["likelihood_agreement"] == 0.95 and "benchmark/faster_for_tokens/1" not in flat


def test_what_selecting_takes_is_of_a_prompt_and_not_a_share_of_its_answer():
    timing = {**TIMING, "selector_seconds": 0.03, "batch_size": 4}
    assert row(record(timing=timing), "x").selector_ms == pytest.approx(7.5)
    assert row(record(timing=None), "x").selector_ms is None
