"""Which of a closed set of answers a language model finds the likeliest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saintprune.evaluation.vlm_passes import go_on, longer


class Candidates:
    """Scores candidate answers by the total log-probability of their tokens and of the token that ends an answer.

    With the end token a candidate's score is the probability of that answer and no other; without it, an answer that
    begins another one ("no", "no one") could not lose to it.

    Args:
        net: the model.
        tokenizer: its tokenizer.
        prompt: puts the chat template around a question with a number of images, up to where the answer begins.
    """

    def __init__(self, net: Any, tokenizer: Any, prompt: Callable[[str, int], str]) -> None:
        self.net, self.tokenizer, self.prompt = net, tokenizer, prompt
        self._known: dict[tuple[str, str], Tensor] = {}

    def scores(
        self, questions: Sequence[str], candidates: Sequence[Sequence[str]], logits: Tensor, mask: Tensor, cache: Any
    ) -> Tensor:
        """Return [B, C] float64: the score of each candidate, -inf where a sample has fewer than C.

        Args:
            questions: B questions.
            candidates: B sets of candidates.
            logits: [B, V] at the last token of the prompts.
            mask: [B, T], 1 for real tokens of the prompts.
            cache: filled by the prompts; it is left as it was.
        """
        width = max(len(own) for own in candidates)
        found = torch.full((len(questions), width), -torch.inf, dtype=torch.float64)
        for column in range(width):
            rows = [row for row, own in enumerate(candidates) if column < len(own)]
            # a sample without a candidate here goes along with its last one
            tails = [
                self.tokens(question, own[min(column, len(own) - 1)])
                for question, own in zip(questions, candidates, strict=True)
            ]
            found[rows, column] = self._totals(tails, logits, mask, cache)[rows]
        return found

    def tokens(self, question: str, candidate: str) -> Tensor:
        """Return the tokens [t] of an answer as it would follow the prompt, the end token included."""
        key = question, candidate
        if key not in self._known:
            prompt = self.prompt(question, 1)
            answer = candidate if prompt[-1:].isspace() else f" {candidate}"
            before = len(self.tokenizer(prompt)["input_ids"])
            ids = self.tokenizer(prompt + answer)["input_ids"][before:]
            end = self.tokenizer.eos_token_id
            self._known[key] = torch.tensor(ids if end is None else [*ids, end])
        return self._known[key]

    def _totals(self, tails: Sequence[Tensor], logits: Tensor, mask: Tensor, cache: Any) -> Tensor:
        """Return [B] float64 on the CPU: the log-probability of one answer per sample."""
        # what pads the shorter ones comes after their end, where no real token attends to it
        tail = pad_sequence(list(tails), batch_first=True).to(mask.device)
        logits = logits[:, None]
        if (extra := tail.shape[1] - 1) > 0:
            rest = go_on(self.net, tail[:, :-1], longer(mask, extra), cache)
            cache.crop(-extra)
            logits = torch.cat([logits.to(rest.logits), rest.logits], dim=1)
        each = logits.float().log_softmax(-1).gather(-1, tail[..., None])[..., 0].double().cpu()
        real = torch.arange(each.shape[1]) < torch.tensor([len(own) for own in tails])[:, None]
        return (each * real).sum(1)
