"""Questions about images in, answers or likelihoods out, while the model prunes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from saintprune.adapters.vlm import VLM
from saintprune.evaluation.vlm_passes import go_on, longer, mask_of, read_prompt
from saintprune.integrations.decoding import Decoding
from saintprune.models.vlm import LoadedVLM
from saintprune.plan import Plan


@dataclass(frozen=True)
class Answer:
    """A generated text, and the tokens of its prompt (before pruning) and of itself."""

    text: str
    prompt_tokens: int
    tokens: int


@dataclass
class PrunedVLM:
    """A vision-language model and the plan by which it prunes.

    Attributes:
        model: with its processor.
        adapter: around the model's network.
        plan: what to prune.
        device: where the network is.
        dtype: of its weights.
        visual_tokens: per batch that had images, (samples, mean image tokens of a sample over the decoder's layers).
    """

    model: LoadedVLM
    adapter: VLM
    plan: Plan
    device: torch.device
    dtype: torch.dtype
    visual_tokens: list[tuple[int, float]] = field(default_factory=list)

    @torch.inference_mode()
    def generate(self, questions: Sequence[str], images: Sequence[Sequence[Image]], decoding: Decoding) -> list[Answer]:
        """Answer a batch; either each question has images or none has."""
        inputs = self._inputs([self._prompt(*pair) for pair in zip(questions, images, strict=True)], images)
        net: Any = self.model.net
        tokenizer, length = self.model.processor.tokenizer, inputs["input_ids"].shape[1]
        with self._pruned(images):
            new = net.generate(**inputs, **decoding.arguments(tokenizer, length))[:, length:]
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        asked, told = mask_of(inputs).sum(1).tolist(), (new != tokenizer.pad_token_id).sum(1).tolist()
        return [Answer(decoding.cut(text), *counts) for text, *counts in zip(texts, asked, told, strict=True)]

    @torch.inference_mode()
    def score(
        self, questions: Sequence[str], images: Sequence[Sequence[Image]], continuations: Sequence[str]
    ) -> list[tuple[float, bool]]:
        """Return for each continuation the sum of its tokens' log-probabilities, and whether each was the likeliest.

        The prompt is read, and pruned, before the model sees the continuation: no answer decides which image tokens
        are left, and all are judged by what generation would see.
        """
        prompts = [self._prompt(*pair) for pair in zip(questions, images, strict=True)]
        tails = [self._tail(*pair) for pair in zip(prompts, continuations, strict=True)]
        inputs = self._inputs(prompts, images)
        # what pads the shorter ones comes after their end, where no real token attends to it
        tail = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids, dtype=torch.long) for ids in tails], batch_first=True)
        tail = tail.to(self.device)
        with self._pruned(images):
            logits = self._logits(inputs, tail)
        log_probs = logits.float().log_softmax(-1)
        likelihood = log_probs.gather(-1, tail[..., None])[..., 0]
        likeliest = log_probs.argmax(-1) == tail
        return [
            (likelihood[row, : len(ids)].double().sum().item(), bool(likeliest[row, : len(ids)].all()))
            for row, ids in enumerate(tails)
        ]

    def _logits(self, inputs: dict[str, Tensor], tail: Tensor) -> Tensor:
        """Return [B, T, V]: what the model expects at each of the T tokens that follow the prompt."""
        net, extra = self.model.net, tail.shape[1] - 1
        read = read_prompt(net, inputs)
        if extra < 1:
            return read.logits[:, -1:].expand(-1, tail.shape[1], -1)
        rest = go_on(net, tail[:, :-1], longer(mask_of(inputs), extra), read.past_key_values)
        return torch.cat([read.logits[:, -1:], rest.logits], dim=1)

    def _prompt(self, question: str, images: Sequence[Image]) -> str:
        """Return a question in the model's chat template, images first."""
        # tasks that place images themselves write LLaVA's mark, and a mark too many would ask for an image too many
        for mark in {"<image>", getattr(self.model.processor, "image_token", None) or "<image>"}:
            question = question.replace(mark, "")
        return self.model.prompt(question.strip(), len(images))

    def _tail(self, prompt: str, continuation: str) -> list[int]:
        """Return the tokens by which prompt + continuation is longer than the prompt."""
        tokenizer = self.model.processor.tokenizer
        if prompt[-1:].isspace():  # lmms-eval puts a space before each choice, for prompts that end in a word
            continuation = continuation.lstrip()
        return tokenizer(prompt + continuation)["input_ids"][len(tokenizer(prompt)["input_ids"]) :]

    def _inputs(self, prompts: list[str], images: Sequence[Sequence[Image]]) -> dict[str, Tensor]:
        """Return the tensors that the network takes, prompts padded at the left."""
        some = any(images)
        inputs = self.model.processor(
            text=prompts, images=[list(own) for own in images] if some else None, padding=True, return_tensors="pt"
        )
        return {
            name: value.to(self.device, self.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
            if isinstance(value, Tensor)
        }

    @contextmanager
    def _pruned(self, images: Sequence[Sequence[Image]]) -> Iterator[None]:
        """Prune in the `with` block; remember what is left of the images."""
        with self.adapter.pruned(self.plan) as run:
            yield
        if any(images):
            layers = run.visual_tokens_per_layer
            self.visual_tokens.append((len(images), sum(layers) / len(layers)))
