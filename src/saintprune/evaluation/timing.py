"""Timing of passes that take turns, so that a slow moment of the machine hits all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from saintprune.metrics.intervals import harmonic_mean, median
from saintprune.plan import Plan

MIN_ROUNDS = 5


@dataclass(frozen=True)
class BenchmarkSettings:
    """How long to measure.

    Attributes:
        pairs: most pairs of an unpruned and a pruned pass.
        max_seconds: stop after about this time, but not before 5 pairs.
        warmup: passes of each kind that are not counted.
        batches: different batches of images (or prompts) to go round.
        new_tokens: of a language model's answer: exactly so many where it is timed, at most where it is scored.
        text_tokens: beside the image in a prompt of noise (dataset=synthetic).
    """

    pairs: int = 30
    max_seconds: float = 20.0
    warmup: int = 1
    batches: int = 2
    new_tokens: int = 16
    text_tokens: int = 64

    def __post_init__(self) -> None:
        """Check the values."""
        limits = {"pairs": 1, "max_seconds": 0, "warmup": 0, "batches": 1, "new_tokens": 2, "text_tokens": 1}
        for name, least in limits.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least {least}")


def summed_up(plan: Plan) -> Callable[[Tensor], Tensor]:
    """Return how the speed-ups of a plan's pairs [..., pairs] are summed up: by their median.

    Those of a plan that defers by their harmonic mean, the speed-up of the time over all of them: what it does differs
    from batch to batch, so that a median would leave out the hard ones.
    """
    return median if plan.defer is None else harmonic_mean


def time_in_turn(
    arms: Mapping[str, Callable[[int], float | Sequence[float]]],
    settings: BenchmarkSettings,
    advance: Callable[[float], None] = lambda share: None,
) -> dict[str, Tensor]:
    """Run every arm once per round, in an order that turns from round to round.

    Args:
        arms: by name, a function that makes one pass over the batch of the given number and returns its seconds, or
            several numbers of seconds.
        settings: rounds, time limit, warm-up and number of batches.
        advance: is told the share of the work that is done, 0..1.

    Returns:
        Seconds of each arm, float64 [rounds], or [rounds, numbers].
    """
    for _ in range(settings.warmup):
        for arm in arms.values():
            arm(0)
    order, times = list(arms), {name: [] for name in arms}
    started = time.perf_counter()
    for number in range(settings.pairs):
        turn = number % len(order)
        for name in order[turn:] + order[:turn]:
            times[name].append(arms[name](number % settings.batches))
        spent = (time.perf_counter() - started) / max(settings.max_seconds, 1e-9)
        done = (number + 1) / settings.pairs
        advance(max(done, min(spent, done * settings.pairs / MIN_ROUNDS, 1.0)))
        if spent >= 1 and number + 1 >= MIN_ROUNDS:
            break
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in times.items()}


def pass_seconds(work: Callable[[], object], device: torch.device, context: AbstractContextManager[object]) -> float:
    """Time one pass on a device in a context; entering and leaving it is not part of the time."""
    with context:
        started = clock(device)
        work()
        return clock(device) - started


def clock(device: torch.device) -> float:
    """Return the time in seconds, once the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
