"""The evidence for and against three stages, one condition at a time; `saintprune.analysis.stages` lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from saintprune.analysis.behaviour import names_of
from saintprune.analysis.curves import Curves
from saintprune.analysis.nulls import (
    Descriptions,
    boundaries_of_redrawn,
    p_monotone,
    p_more,
    p_shuffled,
    p_simpler,
    p_walk,
)
from saintprune.analysis.resampling import Samples
from saintprune.analysis.verdict import Pair, Verdict

CHANCE = 0.05  # p-value from which something counts as chance
STABLE = 0.8  # share of the draws of images in which a boundary must be found within one layer


@dataclass
class Evidence:
    """The evidence, as it is gathered; `failures` says in words what speaks against three stages."""

    found: Descriptions
    samples: Samples
    random: Sequence[Samples]
    draws: int
    seed: int
    failures: list[str] = field(default_factory=list)
    p_values: dict[str, float] = field(default_factory=dict)
    stability: tuple[float, float] | None = None
    intervals: tuple[Pair, Pair] | None = None
    layer_intervals: tuple[Pair, Pair] | None = None

    def fits(self) -> None:
        """Three segments must be better than what is simpler, by more than chance."""
        simpler, three, name = self.found.simpler, self.found.segments[3], self._simpler_name()
        if simpler.score <= three.score:
            self._fail(f"{name} is a better description (score {simpler.score:.0f}, three segments {three.score:.0f})")
            return
        p = self._p("simpler", p_simpler(self.found, self.draws, self._rng(0)))
        if p > CHANCE:
            self._fail(f"three segments are not better than {name} by more than chance (p = {p:.2g})")

    def not_a_walk(self) -> None:
        """Three segments must be better than a random walk, by more than chance."""
        walk, three = self.found.walk, self.found.segments[3]
        if walk.score <= three.score:
            self._fail(
                f"a random walk is a better description (score {walk.score:.0f}, three segments {three.score:.0f})"
            )
            return
        p = self._p("walk", p_walk(self.found, self.draws, self._rng(8)))
        if p > CHANCE:
            self._fail(f"a random walk, to which each block adds a step of its own, would look so too (p = {p:.2g})")

    def not_more(self) -> None:
        """Four segments must not be better by more than chance."""
        if self.found.segments[4].score >= self.found.segments[3].score:
            return
        p = self._p("more", p_more(self.found, self.draws, self._rng(1)))
        if p <= CHANCE:
            self._fail(f"four segments are better (p = {p:.2g})")

    def not_monotone(self) -> None:
        """Some curve must turn."""
        p = self._p("monotone", p_monotone(self.found, self.draws, self._rng(2)))
        if p > CHANCE:
            self._fail(f"the curves may all be monotone, and a monotone curve can be cut anywhere (p = {p:.2g})")

    def ordered(self) -> None:
        """The order of the layers must matter."""
        p = self._p("shuffled", p_shuffled(self.found, self.draws, self._rng(3)))
        if p > CHANCE:
            self._fail(f"layers in a random order fit as well (p = {p:.2g})")

    def stable(self) -> None:
        """The boundaries must stay where they are when other images are drawn."""
        boundaries = self.found.segments[3].ends[:2]
        drawn = self.samples.boundaries(self.draws, self._rng(4))
        first, second = (np.abs(drawn - np.array(boundaries)) <= 1).mean(0).tolist()
        self.stability, self.intervals = (first, second), _intervals(drawn, boundaries)
        self.layer_intervals = _intervals(boundaries_of_redrawn(self.found, self.draws, self._rng(5)), boundaries)
        if min(self.stability) < STABLE:
            self._fail(
                f"with other images a boundary stays within one layer in {min(self.stability):.1%} of the draws only"
            )

    def learnt(self) -> None:
        """Three segments must not pass by as much in networks with random weights."""
        if not self.random:
            return
        own = self.samples.margins(self.draws, self._rng(6))
        twins = [twin.margins(self.draws, self._rng(7)) for twin in self.random]
        p = self._p("random", float((1 + sum((twin >= own).sum() for twin in twins)) / (1 + len(twins) * self.draws)))
        if p > CHANCE:
            self._fail(f"networks with random weights look as much like it (p = {p:.2g})")

    def verdict(self, curves: Curves) -> Verdict:
        """Return the answer."""
        three, scores = self.found.segments[3], {str(k): fit.score for k, fit in self.found.segments.items()}
        names = names_of(self.found.curves, self.samples.metrics, three.ends)
        return Verdict(
            part=curves.part,
            layers=curves.layers,
            images=curves.images,
            metrics=self.samples.metrics,
            three_stages=not self.failures,
            reason=self._reason(three.ends[:2], names),
            segments=self._segments(),
            boundaries=(three.ends[0], three.ends[1]),
            names=names,
            intervals=self.intervals,
            layer_intervals=self.layer_intervals,
            stability=self.stability,
            cuts=tuple(self.found.segments[number].ends[:-1] for number in (2, 3, 4)),
            scores={**scores, "smooth": self.found.smooth.score, "walk": self.found.walk.score},
            p_values=self.p_values,
        )

    def _segments(self) -> int:
        """Return the number of segments that is best supported: a further one must be better by more than chance."""
        if self.found.walk.score <= min(self.found.simpler.score, self.found.segments[3].score):
            return 1
        if self.p_values.get("simpler", 1.0) > CHANCE:
            return len(self.found.simpler.ends)
        return 4 if self.p_values.get("more", 1.0) <= CHANCE else 3

    def _reason(self, boundaries: Sequence[int], names: Sequence[str | None]) -> str:
        if self.failures:
            return "no three stages: " + "; ".join(self.failures)
        called = ", ".join(name or "unnamed" for name in names)
        return (
            f"three stages ({called}) that begin at blocks 0, {boundaries[0]} and {boundaries[1]}: three segments"
            f" describe the {len(self.samples.metrics)} metrics better than one, two, four, a smooth drift or a random"
            " walk"
        )

    def _simpler_name(self) -> str:
        """Return what the best simpler description is called."""
        simpler = self.found.simpler
        if simpler is self.found.smooth:
            return "a smooth drift"
        return "one segment" if len(simpler.ends) == 1 else "a cut in two"

    def _fail(self, reason: str) -> None:
        self.failures.append(reason)

    def _p(self, name: str, value: float) -> float:
        self.p_values[name] = value
        return value

    def _rng(self, use: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, use])


def _intervals(drawn: np.ndarray, boundaries: Sequence[int]) -> tuple[Pair, Pair]:
    """Return the 95 % intervals of boundaries drawn [draws, 2], widened where they would leave out what was found."""
    low, high = np.quantile(drawn, 0.025, axis=0, method="lower"), np.quantile(drawn, 0.975, axis=0, method="higher")
    first, second = (
        (int(min(a, found)), int(max(b, found))) for a, b, found in zip(low, high, boundaries, strict=True)
    )
    return first, second
