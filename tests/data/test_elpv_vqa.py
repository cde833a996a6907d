"""ELPV as questions: the split and the labels of `Elpv`, two questions per image, in one fixed mixed order."""

from __future__ import annotations

import importlib.util
from collections import Counter

import pytest

import tiny_vlm
from saintprune.data.elpv import Elpv
from saintprune.data.elpv_vqa import CANDIDATES, QUESTIONS, ElpvVQA

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("elpv_dataset") is None, reason="needs requirements/assets.txt"
)


def data(**settings) -> ElpvVQA:
    tiny = tiny_vlm.load()
    return ElpvVQA(processor=tiny.processor, prompt=tiny.prompt, batch_size=8, **settings)


def test_both_splits_ask_two_questions_about_every_image_and_answer_as_elpv_labels_it() -> None:
    questions, images = data(), Elpv(transform=lambda image: image)
    for ours, theirs in (
        (questions.test_split(), images.test_split()),
        (questions.train_split(), images.train_split()),
    ):
        labels = {file.name: file.label for file in theirs.files}
        kinds = {file.name: file.stratum.split()[0] for file in theirs.files}
        assert len(ours) == 2 * len(theirs) and len({sample.name for sample in ours.samples}) == len(ours)
        for sample in ours.samples:
            assert sample.question == QUESTIONS[sample.kind] and sample.candidates == CANDIDATES[sample.kind]
            if sample.kind == "defect":
                assert sample.answers == (("no", "yes")[labels[sample.images[0]]],)
            else:
                assert sample.answers[0].startswith(kinds[sample.images[0]])


def test_a_limit_counts_images_and_a_prefix_is_a_fair_sample() -> None:
    samples = data(limit=32).test_split().samples
    assert len(samples) == 64 and len({sample.images for sample in samples}) == 32
    assert 9 <= sum(sample.answers == ("yes",) for sample in samples) <= 11
    prefix = Counter(sample.kind for sample in data().test_split().samples[:100])
    assert 35 < prefix["type"] < 65


def test_a_batch_is_what_the_model_takes() -> None:
    module = data(limit=8)
    assert module.licence == "CC BY-NC-SA 4.0" and module.name == "elpv_vqa" and module.classes is None
    first, second = module.test_dataloader()
    assert len(first) == len(second) == 8 and first.candidates == [list(CANDIDATES[kind]) for kind in first.kinds]
    assert tiny_vlm.load().net(**first.inputs).logits.shape[0] == 8
