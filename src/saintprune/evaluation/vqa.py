"""Score a vision-language model, pruned beside unpruned, on the same questions in one pass over the data."""

from __future__ import annotations

from typing import Any

import lightning as L
from torch import Tensor

from saintprune.adapters.vlm import VLM
from saintprune.data.vqa import VQABatch
from saintprune.evaluation.candidates import Candidates
from saintprune.evaluation.sharing import gathered, number_of, run_test
from saintprune.evaluation.vlm_passes import mask_of, pruned_counts, unpruned_counts
from saintprune.evaluation.vqa_summary import ARMS, Answered, VQAScores, summarised
from saintprune.metrics.vqa_scores import exact_match, normalised
from saintprune.plan import Plan

Answers = tuple[list[str], list[int]]  # generated ones, and the likeliest candidates


class PrunedVQA(L.LightningModule):
    """Answers each batch twice, untouched and pruned, by greedy decoding; `Trainer.test` gathers `scores`.

    Args:
        adapter: of the model.
        plan: what to prune.
        tokenizer: the model's.
        prompt: see `Candidates`.
        new_tokens: of an answer at most.
        unpruned: what the untouched model answered, by number of the batch; what is missing is asked and noted. Runs
            over the same batches may share it.
    """

    def __init__(
        self,
        adapter: VLM,
        plan: Plan,
        tokenizer: Any,
        prompt: Any,
        new_tokens: int,
        unpruned: dict[int, Answers] | None = None,
    ) -> None:
        super().__init__()
        self.net, self.adapter, self.plan = adapter.net, adapter, plan
        self.tokenizer, self.new_tokens = tokenizer, new_tokens
        self.candidates = Candidates(adapter.net, tokenizer, prompt)
        self.batches: list[Answered] = []
        self.unpruned = {} if unpruned is None else unpruned
        self.scores: VQAScores | None = None

    def test_step(self, batch: VQABatch, batch_idx: int) -> None:
        """Score one batch."""
        batch = batch.to(self.device, self.net.dtype)
        texts, chosen, number = {}, {}, number_of(self, batch_idx)
        if number not in self.unpruned:
            self.unpruned[number] = self._answer(batch)
        texts["baseline"], chosen["baseline"] = self.unpruned[number]
        with self.adapter.pruned(self.plan) as run:
            texts["pruned"], chosen["pruned"] = self._answer(batch)
        counts = {"baseline": unpruned_counts(self.adapter, batch.inputs, run), "pruned": pruned_counts(run)}
        right = {arm: list(map(exact_match, texts[arm], batch.answers)) for arm in ARMS}
        same = [normalised(one) == normalised(other) for one, other in zip(*texts.values(), strict=True)]
        likely, likely_same = None, None
        if batch.candidates is not None:
            answers = {
                arm: [own[choice] for own, choice in zip(batch.candidates, chosen[arm], strict=True)] for arm in ARMS
            }
            likely = {arm: list(map(exact_match, answers[arm], batch.answers)) for arm in ARMS}
            likely_same = [one == other for one, other in zip(*chosen.values(), strict=True)]
        self.batches.append(Answered(batch.kinds, batch.images, right, same, likely, likely_same, counts))

    def _answer(self, batch: VQABatch) -> Answers:
        """Return the generated answers and, where there are candidates, the likeliest one of each sample."""
        length = batch.inputs["input_ids"].shape[1]
        output: Any = self.net.generate(
            **batch.inputs,
            max_new_tokens=self.new_tokens,
            do_sample=False,
            num_beams=1,
            return_dict_in_generate=True,
            output_logits=True,
        )
        texts = self.tokenizer.batch_decode(output.sequences[:, length:], skip_special_tokens=True)
        if batch.candidates is None:
            return texts, []
        cache = output.past_key_values
        cache.crop(length - cache.get_seq_length())  # back to the prompt: reading it once serves both kinds of answer
        first: Tensor = output.logits[0]
        found = self.candidates.scores(batch.questions, batch.candidates, first, mask_of(batch.inputs), cache)
        return texts, found.argmax(1).tolist()

    def on_test_epoch_end(self) -> None:
        """Gather the scores, of all processes where there are several."""
        self.scores = summarised(gathered(self, self.batches))


def score(
    adapter: VLM,
    plan: Plan,
    data: L.LightningDataModule,
    tokenizer: Any,
    prompt: Any,
    new_tokens: int,
    unpruned: dict[int, Answers] | None = None,
    **trainer: Any,
) -> VQAScores:
    """Return the scores on the data's test split; `trainer` are arguments of Lightning's Trainer."""
    module = PrunedVQA(adapter, plan, tokenizer, prompt, new_tokens, unpruned)
    run_test(module, data, **trainer)
    assert module.scores is not None
    return module.scores
