"""Answers and likelihoods of a pruned model: batches, padding, and that what is scored is what would be generated."""

import pytest
import torch
from PIL import Image

import tiny_vlm
from saintprune.adapters.vlm import VLM
from saintprune.integrations.answering import PrunedVLM
from saintprune.integrations.decoding import Decoding
from saintprune.plan import Plan, Schedule, Stage
from saintprune.reduction.baselines import RandomDrop, TopKAttention

LAYER, DROP = 1, 0.75
PLANS = {
    "nothing": Plan(),
    "attention": Plan({"language": Stage("language", [LAYER], TopKAttention(), Schedule(drop=DROP))}),
    "random": Plan({"language": Stage("language", [LAYER], RandomDrop(), Schedule(drop=DROP))}),
}
QUESTIONS = ["What colour is this?", "Where?", "<image> or <image>: which?"]
ENDINGS = [" yes", " by no means", "x"]


def picture(seed: int) -> Image.Image:
    """Return noise of 80 x 60 pixels."""
    pixels = torch.randint(256, (60, 80, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


IMAGES = [[picture(0)], [picture(1)], [picture(2), picture(3)]]


@pytest.fixture(scope="module")
def tiny():
    return tiny_vlm.load()


@pytest.fixture(params=PLANS)
def vlm(request, tiny):
    """The model under each plan."""
    return PrunedVLM(tiny, VLM(tiny.net), PLANS[request.param], torch.device("cpu"), torch.float32)


def test_a_batch_answers_as_its_questions_alone(vlm) -> None:
    together = vlm.generate(QUESTIONS, IMAGES, Decoding(max_new_tokens=10))
    alone = [
        vlm.generate([question], [images], Decoding(max_new_tokens=10))[0]
        for question, images in zip(QUESTIONS, IMAGES, strict=True)
    ]
    assert together == alone
    assert len({answer.text for answer in together}) == len(QUESTIONS), "the test cannot tell the answers apart"


def test_a_batch_scores_as_its_questions_alone(vlm) -> None:
    together = vlm.score(QUESTIONS, IMAGES, ENDINGS)
    for scored, *one in zip(together, QUESTIONS, IMAGES, ENDINGS, strict=True):
        (alone,) = vlm.score(*([part] for part in one))
        assert scored[0] == pytest.approx(alone[0], abs=1e-4)
        assert scored[1] == alone[1]


def test_a_score_is_the_sum_of_log_probabilities(tiny) -> None:
    vlm = PrunedVLM(tiny, VLM(tiny.net), PLANS["nothing"], torch.device("cpu"), torch.float32)
    ((scored, _),) = vlm.score(["Where?"], [IMAGES[1]], [" by no means"])
    inputs = tiny.processor(text=[tiny.prompt("Where?") + " by no means"], images=IMAGES[1], return_tensors="pt")
    log_probs = tiny.net(**inputs).logits[0].log_softmax(-1)
    ids = inputs["input_ids"][0]
    tail = range(len(ids) - len(" by no means"), len(ids))  # one token per byte
    assert scored == pytest.approx(sum(log_probs[place - 1, ids[place]].item() for place in tail), abs=1e-4)


def test_a_prompt_that_ends_in_a_space_takes_no_second_one(tiny) -> None:
    spaced = tiny_vlm.load(template=tiny_vlm.TEMPLATE.replace("A:", "A:\n"))
    vlm = PrunedVLM(spaced, VLM(spaced.net), PLANS["nothing"], torch.device("cpu"), torch.float32)
    assert vlm.score(["Where?"], [[]], [" yes"]) == vlm.score(["Where?"], [[]], ["yes"])
    vlm = PrunedVLM(tiny, VLM(tiny.net), PLANS["nothing"], torch.device("cpu"), torch.float32)
    assert vlm.score(["Where?"], [[]], [" yes"]) != vlm.score(["Where?"], [[]], ["yes"])


def test_what_is_generated_is_what_scores_as_the_likeliest(vlm) -> None:
    for question, images in zip(QUESTIONS, IMAGES, strict=True):
        (answer,) = vlm.generate([question], [images], Decoding(max_new_tokens=10))
        text = answer.text.split("\N{REPLACEMENT CHARACTER}")[0]  # half a character does not come back as it was
        ((_, likeliest),) = vlm.score([question], [images], [text])
        ((_, other),) = vlm.score([question], [images], [text + "!"])
        assert likeliest and not other


def test_the_plan_decides_what_is_left(vlm) -> None:
    vlm.generate(QUESTIONS[:2], IMAGES[:2], Decoding(max_new_tokens=1))
    vlm.score(QUESTIONS[:2], IMAGES[:2], ENDINGS[:2])
    depth, patches = vlm.adapter.depth, tiny_vlm.PATCHES
    drop = DROP if vlm.plan.stages else 0
    left = (patches * LAYER + patches * (1 - drop) * (depth - LAYER)) / depth
    assert vlm.visual_tokens == [(2, left), (2, left)]


def test_questions_without_images(vlm) -> None:
    answers = vlm.generate(["Why?", "And how?"], [[], []], Decoding(max_new_tokens=4))
    assert answers[0] == vlm.generate(["Why?"], [[]], Decoding(max_new_tokens=4))[0]
    assert vlm.score(["Why?"], [[]], [""]) == [(0.0, True)]
    assert vlm.visual_tokens == []


def test_until_ends_an_answer_early(vlm) -> None:
    (long,) = vlm.generate(["Where?"], [IMAGES[1]], Decoding(max_new_tokens=40))
    end = long.text[3]
    (short,) = vlm.generate(["Where?"], [IMAGES[1]], Decoding(max_new_tokens=40, until=(end,)))
    assert short.text == long.text[: long.text.index(end)]
    assert short.tokens < long.tokens


def test_sampling_and_beams(vlm) -> None:
    torch.manual_seed(0)
    sampled = [vlm.generate(["Where?"], [IMAGES[1]], Decoding(8, temperature=5.0))[0].text for _ in range(2)]
    assert sampled[0] != sampled[1]
    assert vlm.generate(["Where?"], [IMAGES[1]], Decoding(4, beams=2))[0].tokens > 0
