"""What a calibration aims at: `speedup:2.0`, `flops:0.5`, `tokens:0.5` or `agreement:0.98`."""

from __future__ import annotations

from dataclasses import dataclass

from saintprune.errors import SaintpruneError, did_you_mean

_RANGES = {
    "speedup": (1.0, float("inf"), "a factor above 1, such as speedup:2.0"),
    "flops": (0.0, 1.0, "the share of FLOPs to leave, between 0 and 1, such as flops:0.5"),
    "tokens": (0.0, 1.0, "the share of mean tokens per layer to leave, between 0 and 1, such as tokens:0.5"),
    "agreement": (0.0, 1.0, "the share of answers to keep, between 0 and 1, such as agreement:0.98"),
}


@dataclass(frozen=True)
class Measured:
    """What a plan does to the calibration images; `speedup` is None where it was not timed.

    Attributes:
        flops: share of the FLOPs that is left.
        tokens: share of the mean tokens per layer that is left.
        agreement: share of images that are answered as without pruning; None where the network gives features.
        speedup: median factor over interleaved pairs.
    """

    flops: float
    tokens: float
    agreement: float | None
    speedup: float | None = None

    def __str__(self) -> str:
        """Return the figures in words."""
        agreement = "" if self.agreement is None else f", agreement {self.agreement:.3f}"
        speedup = "" if self.speedup is None else f", speed-up {self.speedup:.2f}"
        return f"FLOPs {self.flops:.3f}, tokens {self.tokens:.3f}{agreement}{speedup}"


@dataclass(frozen=True)
class Target:
    """A kind of figure and the value it should have."""

    kind: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read `kind:value`.

        Raises:
            SaintpruneError: an unknown kind, or a value that no pruning can have.
        """
        kind, _, number = str(text).partition(":")
        if kind not in _RANGES:
            raise SaintpruneError(
                f"calibration.target={text} asks for {kind!r}{did_you_mean(kind, _RANGES)}: give one of"
                " speedup:2.0, flops:0.5, tokens:0.5, agreement:0.98"
            )
        low, high, meaning = _RANGES[kind]
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if not (low < value < high or (kind == "agreement" and value == 1)):
            raise SaintpruneError(f"calibration.target={text} is impossible: {kind} takes {meaning}")
        return cls(kind, value)

    def __str__(self) -> str:
        """Return `kind:value`."""
        return f"{self.kind}:{self.value:g}"

    def exceeded(self, measured: Measured) -> bool:
        """Return whether pruning went far enough: a cost target is met, or agreement has fallen below its target."""
        value = getattr(measured, self.kind)
        if value is None:
            return False
        if self.kind == "speedup":
            return value >= self.value
        return value < self.value if self.kind == "agreement" else value <= self.value
