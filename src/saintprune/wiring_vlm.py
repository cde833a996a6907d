"""What `wiring` does where the model answers questions about images."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.callbacks import Callback

from saintprune.binding import make, target_of
from saintprune.data.synthetic import Synthetic
from saintprune.data.vqa import VQAData
from saintprune.errors import SaintpruneError
from saintprune.evaluation.layer_paths import Depths, check
from saintprune.evaluation.layer_sampling import LayerSampling
from saintprune.evaluation.vlm_benchmark import VLMBenchmark
from saintprune.evaluation.vlm_noise import noise_prompts
from saintprune.evaluation.vlm_passes import Inputs
from saintprune.evaluation.vlm_timing import VLMTiming
from saintprune.evaluation.vqa import score
from saintprune.evaluation.vqa_summary import VQAScores
from saintprune.hardware import HardwareProfile
from saintprune.parts import Parts, console, progress
from saintprune.plan import Plan
from saintprune.reporting.records import RunRecord
from saintprune.reporting.tables import layers_line

FEW = 0.02  # share of the image tokens at the end below which a run points it out


def is_vlm(model: Any) -> bool:
    """Return whether a loader gave a model that takes questions."""
    return hasattr(model, "prompt")


def refuse_questions(cfg: Any, dataset: str) -> None:
    """Check that the dataset of a network that only sees images asks no questions.

    Raises:
        SaintpruneError: it does.
    """
    if _is(target_of(cfg, "dataset"), VQAData):
        raise SaintpruneError(
            f"dataset={dataset} asks questions, but model={cfg.model.name} only looks at images: choose dataset=elpv or"
            " another one with labels, or a vision-language model, for example model=vlm_s14_smollm2"
        )


def build(cfg: Any, names: dict[str, str], hardware: HardwareProfile, plan: Plan, settings: Any, model: Any) -> Parts:
    """Put together the parts of a run, given those that do not depend on the kind of model.

    Raises:
        SaintpruneError: the parts do not fit each other, or the task is not for this kind of model.
    """
    depths, loader = _depths(model), {"batch_size": hardware.batch_size, "num_workers": hardware.num_workers}
    _check_task(cfg, names["dataset"], depths)
    if model.processor is None and _is(target_of(cfg, "dataset"), VQAData):
        raise SaintpruneError(
            f"model={cfg.model.name} with random weights cannot read questions: take model.pretrained=true, or"
            " task=benchmark dataset=synthetic"
        )
    if _is(target_of(cfg, "dataset"), VQAData):
        data = make(cfg, "dataset", processor=model.processor, prompt=model.prompt, **loader)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*they are left out")  # `wiring` says it better
            data.setup()
    else:
        data = make(cfg, "dataset", transform=None, input_size=None, **loader)
    hardware.prepare(model.net)
    adapter = make(cfg, "model.adapter", net=model.net)
    check_plan(adapter, plan, model)  # a layer that the model lacks is an error now, not after minutes
    return Parts(cfg, names, hardware, hardware.device, data, model, adapter, plan, settings)


def check_plan(adapter: Any, plan: Plan, model: Any) -> None:
    """Check that a plan fits a model, or the whole model of which only some layers are there.

    Raises:
        SaintpruneError: it does not.
    """
    depths = _depths(model)
    if depths is None:
        adapter.check(plan)
    else:
        check(adapter, plan, depths)


def score_questions(parts: Parts, callbacks: list[Callback]) -> VQAScores:
    """Score the test split, or this process's share of it, with Lightning."""
    return score(
        parts.adapter,
        parts.plan,
        parts.data,
        parts.model.processor.tokenizer,
        parts.model.prompt,
        parts.settings.new_tokens,
        parts.unpruned,
        callbacks=callbacks,
        **parts.hardware.trainer_arguments(),
    )


def benchmark(parts: Parts) -> VLMTiming:
    """Time the model on questions of the test split or on noise; predict the whole of which only layers are there."""
    depths = _depths(parts.model)
    with progress("timing") as advance:
        if depths is not None:
            return LayerSampling(parts.adapter, parts.plan, depths, parts.settings).run(advance)
        return VLMBenchmark(parts.adapter, parts.plan, _prompts(parts), parts.settings).run(advance)


def show_tokens(record: RunRecord) -> None:
    """Print how many tokens leave each layer, and a word where next to no image tokens are left."""
    before, after = record.baseline, record.pruned
    for key, what in (("visual_tokens_per_layer", "image tokens"), ("tokens_per_layer", "all tokens")):
        console.print(f"{what} that leave each decoder layer, unpruned: {layers_line(before[key])}")
        console.print(f"{what} that leave each decoder layer, pruned:   {layers_line(after[key])}")
    if after["tower_tokens_per_block"] is not None:
        console.print(f"tokens that leave each tower block, pruned:   {layers_line(after['tower_tokens_per_block'])}")
    left, total = after["visual_tokens_per_layer"][-1], before["visual_tokens_per_layer"][-1]
    if left < FEW * total:
        console.print(f"[yellow]note:[/yellow] only {left:.0f} of {total:.0f} image tokens are left at the end")


def _check_task(cfg: Any, dataset: str, depths: Depths | None) -> None:
    """Check that task and dataset fit a vision-language model."""
    task, model, target = cfg.task.value, cfg.model.name, target_of(cfg, "dataset")
    if task == "calibrate" or cfg.calibration.target is not None or cfg.calibration.correct is not None:
        raise SaintpruneError(
            f"calibration is for networks that only look at images, but model={model} answers questions: set"
            " thresholds or schedules by hand, for example pruning.stages.language.schedule.drop=0.5"
        )
    if depths is not None and not (task == "benchmark" and _is(target, Synthetic)):
        raise SaintpruneError(
            f"of model={model} only some layers are built (model.sample_layers), which can be timed on noise alone:"
            " task=benchmark dataset=synthetic"
        )
    if not _is(target, VQAData) and not (task == "benchmark" and _is(target, Synthetic)):
        raise SaintpruneError(
            f"dataset={dataset} asks no questions, but model={model} answers such: choose dataset=elpv_vqa, or"
            " dataset=vqa_jsonl dataset.path=FILE, or task=benchmark dataset=synthetic"
        )


def _depths(model: Any) -> Depths | None:
    """Return the layers of the whole model where the loader left some out; None where all are there."""
    layers = model.source.get("layers")
    return None if layers is None else Depths(layers["language"]["published"], layers["vision"]["published"])


def _prompts(parts: Parts) -> Sequence[Inputs]:
    """Return whole batches of prompts on the device."""
    wanted = parts.settings.batches
    if not isinstance(parts.data, VQAData):
        seed = getattr(parts.data, "seed", 0) * wanted
        size, text = parts.hardware.batch_size, parts.settings.text_tokens
        return [noise_prompts(parts.model.net, size, text, seed + number) for number in range(wanted)]
    batches = []
    for batch in parts.data.test_dataloader():
        batches.append(batch.to(parts.device, parts.hardware.dtype))
        if len(batches) == wanted:
            break
    whole = [batch.inputs for batch in batches if len(batch) == len(batches[0])]
    if not whole:
        raise SaintpruneError(f"dataset={parts.names['dataset']} has no questions to measure with")
    return whole


def _is(target: Any, kind: type) -> bool:
    return inspect.isclass(target) and issubclass(target, kind)
