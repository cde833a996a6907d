"""From what parts of a model cost at a handful of numbers of tokens to what many layers cost together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

HANDFUL = 5  # numbers of tokens at which a kind of layer is measured; what lies between them is interpolated
Costs = Mapping[tuple[str, int], Tensor]  # of each kind of part at a number of tokens, [rounds]: seconds, or FLOPs


@dataclass(frozen=True)
class Cost:
    """What a model needs for one prompt, [rounds] each.

    Attributes:
        first: to the first token.
        step: for each further token.
        tower: in tower and projector, a part of `first`.
        selecting: a part of `first` too.
    """

    first: Tensor
    step: Tensor
    tower: Tensor
    selecting: Tensor

    def answer(self, tokens: int) -> Tensor:
        """Return what an answer needs."""
        return self.first + (tokens - 1) * self.step

    def seconds(self, tokens: int) -> Tensor:
        """Return [rounds, 3]: to the first token, for a further one, and for an answer."""
        return torch.stack([self.first, self.step, self.answer(tokens)], dim=1)


def handful(numbers: Sequence[int]) -> list[int]:
    """Return at most `HANDFUL` of rising numbers, evenly spread, the first and the last among them."""
    if len(numbers) <= HANDFUL:
        return list(numbers)
    return [numbers[round(place * (len(numbers) - 1) / (HANDFUL - 1))] for place in range(HANDFUL)]


def total(kind: str, numbers: Sequence[int], costs: Costs) -> Tensor:
    """Return [rounds]: the sum of what one kind of part costs at each of some numbers, interpolated between those
    that were measured, the smallest and the largest among them.
    """
    known = sorted(number for part, number in costs if part == kind)
    values = torch.stack([costs[kind, number].double() for number in known])  # (numbers, rounds)
    found = torch.zeros_like(values[0])
    for number in numbers:
        above = next(place for place, at in enumerate(known) if at >= number)
        if known[above] == number:
            found = found + values[above]
            continue
        share = (number - known[above - 1]) / (known[above] - known[above - 1])
        found = found + (1 - share) * values[above - 1] + share * values[above]
    return found
