"""The answer to whether a part of a model has three stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Pair = tuple[int, int]


@dataclass(frozen=True)
class Verdict:
    """The answer for one part of a model.

    Attributes:
        part: of the model, as in `Curves`.
        layers: L.
        images: number.
        metrics: those that were used.
        three_stages: the answer.
        reason: in words.
        segments: number that is best supported, 1 to 4; 1 where a smooth drift or a random walk is.
        boundaries: first blocks of the second and third of the best three segments, also where the answer is no; None
            where there was nothing to cut.
        names: of these three segments, by their behaviour; None for one without.
        intervals: per boundary, of 95 % of the draws of images.
        layer_intervals: per boundary, of 95 % of the draws of the layers' deviations from the segments. They are the
            wider, where there are many images, and the better guide to another network of the kind.
        stability: per boundary, share of the draws of images in which it is found within one layer.
        cuts: first blocks of the segments after the first, of the best two, three and four segments.
        scores: what each description costs, by "1", "2", "3", "4", "smooth" and "walk"; lower is better.
        p_values: by "simpler", "walk", "more", "monotone", "shuffled" and "random"; those that were computed.
    """

    part: str
    layers: int
    images: int
    metrics: tuple[str, ...]
    three_stages: bool
    reason: str
    segments: int = 1
    boundaries: Pair | None = None
    names: tuple[str | None, ...] = (None, None, None)
    intervals: tuple[Pair, Pair] | None = None
    layer_intervals: tuple[Pair, Pair] | None = None
    stability: tuple[float, float] | None = None
    cuts: tuple[tuple[int, ...], ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    p_values: Mapping[str, float] = field(default_factory=dict)

    @property
    def spans(self) -> tuple[Pair, ...]:
        """The best three segments as (first block, block after the last); none where there was nothing to cut."""
        if self.boundaries is None:
            return ()
        first, second = self.boundaries
        return ((0, first), (first, second), (second, self.layers))
