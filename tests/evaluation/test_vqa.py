"""Scores of answers by hand; likelihoods against one forward pass per candidate."""

import pytest
import torch

from saintprune import Plan, Saint, Schedule, Stage
from saintprune.adapters.vlm import VLM
from saintprune.evaluation.candidates import Candidates
from saintprune.evaluation.vlm_passes import mask_of, read_prompt
from saintprune.evaluation.vqa import score
from saintprune.metrics.intervals import interval_of_mean
from saintprune.metrics.vqa_scores import normalised
from saintprune.reduction.baselines import KeepAll, RandomDrop
from tiny_questions import Questions, batches, load

HALF = Schedule(drop=0.5)
PLANS = {
    "nothing": Plan(),
    "language": Plan({"language": Stage("language", [1], RandomDrop(), Schedule(drop=0.8))}),
    "hybrid": Plan(
        {
            "vision": Stage("vision", [0], RandomDrop(), HALF),
            "language": Stage("language", "1:3", Saint(0.1, min_neighbours=1, vote="sample")),
        }
    ),
}


@pytest.fixture(scope="module")
def model():
    return load()


def data(model, **more):
    return Questions(processor=model.processor, prompt=model.prompt, **{"batch_size": 3, **more})


def run(model, plan, questions, new_tokens=5, **trainer):
    trainer = {"accelerator": "cpu", "enable_progress_bar": False, **trainer}
    return score(VLM(model.net), plan, questions, model.processor.tokenizer, model.prompt, new_tokens, **trainer)


def one_by_one(model, plan, questions):
    """Answers to single questions, without padding."""
    adapter, found = VLM(model.net), []
    for batch in batches(questions):
        with torch.inference_mode(), adapter.pruned(plan):
            ids = model.net.generate(**batch.inputs, do_sample=False, max_new_tokens=5)
        found += model.processor.tokenizer.batch_decode(
            ids[:, batch.inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
    return found


@pytest.mark.parametrize("plan", PLANS)
def test_scores_by_hand(model, plan):
    plain = one_by_one(model, Plan(), data(model, batch_size=1))
    pruned = one_by_one(model, PLANS[plan], data(model, batch_size=1))
    accepted = [answer.upper() + "." if number in (0, 1, 4) else "42" for number, answer in enumerate(plain)]
    found = run(model, PLANS[plan], data(model, answers=tuple(accepted)))
    right = [normalised(one) == normalised(other) for one, other in zip(pruned, accepted, strict=True)]
    assert found.num_samples == 7 and found.samples_by_kind == {"a": 4, "b": 3}
    assert found.baseline.accuracy == pytest.approx(3 / 7)
    assert found.baseline.accuracy_by_kind == {"a": 2 / 4, "b": 1 / 3}
    assert found.pruned.accuracy == pytest.approx(sum(right) / 7)
    assert found.pruned.accuracy_by_kind == {"a": sum(right[::2]) / 4, "b": sum(right[1::2]) / 3}
    assert found.agreement == pytest.approx(
        sum(normalised(one) == normalised(other) for one, other in zip(plain, pruned, strict=True)) / 7
    )
    low, high = found.accuracy_change_ci95
    assert low <= found.pruned.accuracy - found.baseline.accuracy <= high
    assert found.samples.groups.tolist() == [0, 0, 1, 1, 2, 2, 3], "two questions about each image"
    change = found.samples.pruned_right.double() - found.samples.baseline_right.double()
    assert found.accuracy_change_ci95 == interval_of_mean(change, found.samples.groups)


def test_identity_agrees_with_itself(model):
    plan = {"vision": Stage("vision", [0], KeepAll()), "language": Stage("language", "all", KeepAll())}
    found = run(model, Plan(plan), data(model))
    assert found.agreement == found.likelihood_agreement == 1.0
    assert found.accuracy_change_ci95 == found.likelihood_accuracy_change_ci95 == (0.0, 0.0)
    assert found.pruned.tokens_per_layer == found.baseline.tokens_per_layer
    assert found.pruned.tower_tokens_per_block == [17.0] * 2


def brute_force(model, plan, batch, row, candidate):
    """The log-probability of one answer to one question: a pass over the prompt, and one for each token after it."""
    adapter, ids = VLM(model.net), model.processor.tokenizer(f" {candidate}")["input_ids"]
    real = batch.inputs["attention_mask"][row].bool()
    inputs = {
        "input_ids": batch.inputs["input_ids"][row : row + 1, real],
        "pixel_values": batch.inputs["pixel_values"][row : row + 1],
    }
    total = 0.0
    with torch.inference_mode(), adapter.pruned(plan):
        out = model.net(**inputs, use_cache=True)
        for token in [*ids, model.processor.tokenizer.eos_token_id]:
            total += out.logits[0, -1].log_softmax(-1)[token].item()
            out = model.net(input_ids=torch.tensor([[token]]), past_key_values=out.past_key_values)
    return total


def likeliest(model, plan):
    """The likeliest candidate of each question."""
    found = []
    for batch in batches(data(model)):
        for row, own in enumerate(batch.candidates):
            scores = [brute_force(model, plan, batch, row, candidate) for candidate in own]
            found.append(own[scores.index(max(scores))])
    return found


@pytest.mark.parametrize("plan", PLANS)
def test_likelihoods_equal_brute_force(model, plan):
    batch = batches(data(model))[0]
    scorer = Candidates(model.net, model.processor.tokenizer, model.prompt)
    with torch.inference_mode(), VLM(model.net).pruned(PLANS[plan]):
        out = read_prompt(model.net, batch.inputs)
        for _ in range(2):  # the cache is left as it was
            found = scorer.scores(
                batch.questions, batch.candidates, out.logits[:, -1], mask_of(batch.inputs), out.past_key_values
            )
    assert found.shape == (3, 3) and found[0, 2] == -torch.inf, "the first question has two candidates only"
    for row, candidates in enumerate(batch.candidates):
        for column, candidate in enumerate(candidates):
            wanted = brute_force(model, PLANS[plan], batch, row, candidate)
            assert found[row, column].item() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("plan", PLANS)
def test_accuracy_by_likelihood(model, plan):
    """The cache of the generated answer serves the candidates."""
    choices = {"nothing": likeliest(model, Plan()), plan: likeliest(model, PLANS[plan])}
    accepted = tuple(choice if number % 3 else "42" for number, choice in enumerate(choices["nothing"]))
    found = run(model, PLANS[plan], data(model, answers=accepted))
    right = [choice == answer for choice, answer in zip(choices[plan], accepted, strict=True)]
    assert found.baseline.likelihood_accuracy == pytest.approx(4 / 7)
    assert found.pruned.likelihood_accuracy == pytest.approx(sum(right) / 7)
    assert found.pruned.likelihood_accuracy_by_kind["a"] == pytest.approx(sum(right[::2]) / 4)
    same = sum(one == other for one, other in zip(choices["nothing"], choices[plan], strict=True))
    assert found.likelihood_agreement == pytest.approx(same / 7)


def test_open_questions_have_no_likelihood(model):
    found = run(model, PLANS["language"], data(model, closed="", batch_size=2))
    assert found.baseline.likelihood_accuracy is None and found.likelihood_agreement is None
    assert found.baseline.accuracy == 0.0 and found.likelihood_accuracy_change_ci95 is None


def test_an_answer_is_tokenised_as_it_follows_the_prompt(model):
    scorer = Candidates(model.net, model.processor.tokenizer, model.prompt)
    ids = scorer.tokens("Which?", "no")
    assert model.processor.tokenizer.decode(ids) == " no<eos>", "the prompt ends with A:"
    scorer = Candidates(model.net, model.processor.tokenizer, lambda question, images: f"{question}\n")
    assert model.processor.tokenizer.decode(scorer.tokens("Which?", "no")) == "no<eos>"


def test_tokens_are_means_over_all_questions(model):
    found = run(model, PLANS["hybrid"], data(model))
    lengths = [int(batch.inputs["attention_mask"].sum()) for batch in batches(data(model, batch_size=1))]
    assert found.baseline.tokens_per_layer == pytest.approx([sum(lengths) / 7] * 4)
    assert found.baseline.visual_tokens_per_layer == [16.0] * 4
    assert found.pruned.visual_tokens_per_layer[0] == 8.0
    assert found.baseline.tower_tokens_per_block == [17.0] * 2 and found.pruned.tower_tokens_per_block == [9.0] * 2


def test_processes_gather_their_batches(model, tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        found = run(model, PLANS["language"], data(model))
    finally:
        torch.distributed.destroy_process_group()
    assert found.num_samples == 7


def test_half_precision(model):
    found = run(load(), PLANS["hybrid"], data(model), precision="bf16-true")
    assert found.num_samples == 7 and found.pruned.visual_tokens_per_layer[0] == 8.0
