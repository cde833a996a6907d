"""How answers are generated, as lmms-eval's tasks say it and as transformers takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from saintprune.errors import SaintpruneError


@dataclass(frozen=True)
class Decoding:
    """How answers are generated.

    Attributes:
        max_new_tokens: length of an answer at most.
        until: an answer ends before the first of these strings.
        temperature: of sampling; 0 always takes the likeliest token.
        top_p: sample from the likeliest tokens that together have this probability; None from all.
        beams: width of the beam search; 1 for none.
    """

    max_new_tokens: int = 1024
    until: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float | None = None
    beams: int = 1

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Decoding:
        """Read what the YAML files of lmms-eval's tasks call `generation_kwargs`; keys that are not ours are left out.

        Raises:
            SaintpruneError: `until` is neither a string nor a list of strings.
        """
        until = settings.get("until") or ()
        until = (until,) if isinstance(until, str) else until
        if not isinstance(until, (list, tuple)) or not all(isinstance(end, str) for end in until):
            raise SaintpruneError(f"generation_kwargs.until is {until!r}, but must be a string or a list of strings")
        sampled, temperature = settings.get("do_sample"), settings.get("temperature")
        if temperature is None:
            temperature = 1.0 if sampled else 0.0
        if sampled is False:
            temperature = 0.0
        return cls(
            max_new_tokens=int(settings.get("max_new_tokens") or settings.get("max_gen_toks") or cls.max_new_tokens),
            until=tuple(end for end in until if end),
            temperature=float(temperature),
            top_p=settings.get("top_p") if temperature else None,
            beams=int(settings.get("num_beams") or 1),
        )

    def arguments(self, tokenizer: Any, prompt_tokens: int) -> dict[str, Any]:
        """Return what `generate` of transformers is given for prompts of so many tokens, padding included."""
        sampled = self.temperature > 0
        return {
            "max_new_tokens": self.max_new_tokens,
            "do_sample": sampled,
            "temperature": self.temperature if sampled else None,
            "top_p": self.top_p,
            "top_k": 0 if sampled else None,
            "num_beams": self.beams,
            "pad_token_id": tokenizer.pad_token_id,
            "stopping_criteria": [_Until(tokenizer, self.until, prompt_tokens)] if self.until else None,
        }

    def cut(self, text: str) -> str:
        """Return what comes before the first of `until`."""
        return text[: min((text.find(end) for end in self.until if end in text), default=len(text))]


class _Until(StoppingCriteria):
    """Stops a sample when its answer holds one of some strings; the prompt, unlike in `stop_strings`, has no part."""

    def __init__(self, tokenizer: Any, ends: Sequence[str], prompt_tokens: int) -> None:
        self.tokenizer, self.ends, self.prompt_tokens = tokenizer, ends, prompt_tokens
        self.window = 4 + 4 * max(len(end) for end in ends)  # a character has up to four bytes, a token at least one

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        """Return [B] bool for the tokens [B, T] so far."""
        first = max(self.prompt_tokens, input_ids.shape[1] - self.window)
        texts = self.tokenizer.batch_decode(input_ids[:, first:])
        return torch.tensor([any(end in text for end in self.ends) for text in texts], device=input_ids.device)
