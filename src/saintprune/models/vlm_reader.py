"""Ask the language model of a LLaVA several questions about an image at once, given any of its visual tokens.

The questions share the visual tokens: they stand one after the other in one sequence, and the mask hides each from the
others. Visual tokens that are left out leave a gap in the positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Examples:
    """Images as the tower sees them, and the answers to the questions about them.

    Attributes:
        features: (N, P, C) float16, what the projector reads.
        answers: per kind of question, (N, A) the tokens of the right answers.
    """

    features: Tensor
    answers: dict[str, Tensor]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.features)

    def at(self, rows: Tensor) -> Examples:
        """Return some of the images."""
        return Examples(self.features[rows], {kind: ids[rows] for kind, ids in self.answers.items()})


class Reader:
    """The frozen language model of a LLaVA, given visual tokens and asked for answers."""

    def __init__(self, net: Any, processor: Any, questions: Mapping[str, str], dtype: torch.dtype) -> None:
        """Tokenise the prompts; the language model of `net` is moved to `dtype`.

        Args:
            net: A ``LlavaForConditionalGeneration``.
            processor: Its own.
            questions: By kind, each asked about one image.
            dtype: bfloat16 is twice as fast as float32 on CPUs that know it.
        """
        self.language = net.model.language_model.to(dtype)
        self.words: Tensor = self.language.embed_tokens.weight
        self.head: Tensor = net.lm_head.weight.float()
        self.patches: int = net.config.image_seq_length
        self.questions: dict[str, Tensor] = {}
        for kind, question in questions.items():
            content = [{"type": "image"}, {"type": "text", "text": question}]
            prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            ids = processor.tokenizer(prompt, return_tensors="pt")["input_ids"][0]
            place = int((ids == net.config.image_token_id).nonzero())
            self.prefix, self.questions[kind] = ids[:place], ids[place + 1 :]

    def logits(self, visual: Tensor, places: Tensor, answers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return each kind's logits (B, A, V) where the A tokens of its answer are foretold.

        Args:
            visual: (B, K, D) projected patches.
            places: (B, K) which patches they are.
            answers: per kind, (B, A) the tokens of the right answers.
        """
        batch, kept = places.shape
        before, start = len(self.prefix), len(self.prefix) + kept
        parts = [self.words[self.prefix].expand(batch, -1, -1), visual.to(self.words.dtype)]
        positions = [torch.arange(before).expand(batch, -1), before + places]
        spans: dict[str, slice] = {}
        for kind, foretold in answers.items():
            ids = torch.cat([self.questions[kind].expand(batch, -1), foretold[:, :-1]], dim=1)  # (B, Q + A - 1)
            parts.append(self.words[ids])
            positions.append((before + self.patches + torch.arange(ids.shape[1])).expand(batch, -1))
            spans[kind] = slice(start, start + ids.shape[1])
            start += ids.shape[1]
        mask = torch.ones(start, start, dtype=torch.bool).tril()
        for kind, rows in spans.items():
            for other in (columns for name, columns in spans.items() if name != kind):
                mask[rows, other] = False
        states = self.language(
            inputs_embeds=torch.cat(parts, dim=1),
            attention_mask=mask[None, None],
            position_ids=torch.cat(positions, dim=1),
            use_cache=False,
        ).last_hidden_state
        return {
            kind: states[:, span.stop - answers[kind].shape[1] : span.stop].float() @ self.head.T
            for kind, span in spans.items()
        }


def draw(batch: int, patches: int, share: float, generator: torch.Generator) -> Tensor:
    """Return for each of `batch` images the places (B, K) of a random share of its patches, in order."""
    kept = min(patches, max(1, round(share * patches)))
    return torch.rand(batch, patches, generator=generator).argsort(dim=1)[:, :kept].sort(dim=1).values


def gather(features: Tensor, places: Tensor) -> Tensor:
    """Return the features (B, K, C) at places (B, K)."""
    return features.gather(1, places[..., None].expand(-1, -1, features.shape[2]))
