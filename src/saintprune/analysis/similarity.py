"""Pairwise cosines of vectors, raw and about their mean, with one matrix product for both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

BINS = 200  # of 0.01, so that usual thresholds are edges
_NO_PAIR = -2.0  # stands in for a cosine where there is no pair: a token with itself, or with padding
_ON_CENTRE = 1e-6  # of a vector's length: nearer to the centre than this it has no direction left in float32


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors of each image, split into a centre and the offsets from it.

    Attributes:
        offset: [B, N, C], vectors minus the centre; 0 for padding.
        centre: [B, 1, C].
        valid: [B, N] bool, False marks padding; None means that all are real.
    """

    offset: Tensor
    centre: Tensor
    valid: Tensor | None = None

    @classmethod
    def about_mean(cls, x: Tensor, valid: Tensor | None = None) -> Vectors:
        """Return vectors [B, N, C] about the mean of those that are real."""
        if valid is None:
            centre = x.mean(1, keepdim=True)
            return cls(x - centre, centre)
        real = valid[..., None]
        centre = x.masked_fill(~real, 0).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp_min(1)
        return cls((x - centre).masked_fill(~real, 0), centre, valid)

    @cached_property
    def count(self) -> Tensor:
        """[B], how many are real."""
        if self.valid is None:
            return self.offset.new_full((len(self.offset),), self.offset.shape[1])
        return self.valid.sum(1).to(self.offset.dtype)

    @cached_property
    def along_centre(self) -> Tensor:
        """[B, N], product of each offset with the centre."""
        return (self.offset @ self.centre.mT)[..., 0]

    @cached_property
    def offset_lengths(self) -> Tensor:
        """[B, N], lengths of the offsets; 0 for padding."""
        return self.offset.norm(dim=-1)

    @cached_property
    def lengths(self) -> Tensor:
        """[B, N], lengths of the vectors themselves; 0 for padding."""
        squares = self.offset_lengths.square() + 2 * self.along_centre + self.centre.square().sum(-1)
        found = squares.clamp_min(0).sqrt()
        return found if self.valid is None else found.masked_fill(~self.valid, 0)

    def raw(self, images: Tensor | slice) -> Tensor:
        """Return the vectors themselves of some images, [b, N, C]; 0 for padding."""
        x = self.offset[images] + self.centre[images]
        return x if self.valid is None else x.masked_fill(~self.valid[images][..., None], 0)

    def inverse_lengths(self, centred: bool) -> Tensor:
        """Return [B, N], one over the lengths; 0 for padding and for vectors without a direction."""
        if not centred:
            return torch.where(self.lengths > 0, self.lengths.reciprocal(), 0)
        lengths = self.offset_lengths
        return torch.where(lengths > _ON_CENTRE * self.lengths, lengths.reciprocal(), 0)

    def mean(self, values: Tensor) -> Tensor:
        """Return [B], the mean of one value per vector [B, N] over those that are real; NaN where there is none."""
        if self.valid is None:
            return values.mean(1)
        return values.masked_fill(~self.valid, 0).sum(1) / self.count


@dataclass(frozen=True, eq=False)
class Pairs:
    """What is told of all pairs of an image's vectors; NaN where there are none.

    Attributes:
        cosine: [B], mean cosine.
        neighbour: [B], mean over the first vectors of the cosine with their nearest second.
        histogram: [B, BINS] int64, counts of the pairs by their cosine.
        pairs: [B], number of pairs; within one set each pair counts twice.
        degree: [B], pairs of one of the first vectors.
    """

    cosine: Tensor
    neighbour: Tensor
    histogram: Tensor
    pairs: Tensor
    degree: Tensor

    def share(self, threshold: float) -> Tensor:
        """Return [B], the share of pairs whose cosine is at least a threshold that is an edge of the histogram."""
        first = round((threshold + 1) * BINS / 2)
        return self.histogram[:, first:].sum(1) / self.pairs


def edges() -> Tensor:
    """Return the edges of the histograms: [BINS + 1] float64, -1..1."""
    return torch.linspace(-1, 1, BINS + 1, dtype=torch.float64)


def compare(first: Vectors, second: Vectors | None = None) -> tuple[Pairs, Pairs]:
    """Compare each of the first vectors with each of the second, or the vectors of one set with each other.

    The product is that of the offsets: adding the centre afterwards costs no digits, taking it off would.

    Args:
        first: N vectors per image.
        second: M vectors about the same centre.

    Returns:
        The pairs by raw cosines, and by those about the centre.
    """
    other = first if second is None else second
    product = first.offset @ other.offset.mT  # (b, n, m)
    raw = product + first.along_centre[..., None]
    raw += (other.along_centre + first.centre.square().sum(-1))[:, None]
    found = []
    for centred, cosines in ((False, raw), (True, product)):
        cosines *= first.inverse_lengths(centred)[..., None]
        cosines *= other.inverse_lengths(centred)[:, None]
        found.append(_pairs(cosines, first, second))
    return found[0], found[1]


def _pairs(cosines: Tensor, first: Vectors, second: Vectors | None) -> Pairs:
    """Tell about cosines [B, N, M], which are used up; those of padding are 0."""
    total, diagonal = cosines.sum((1, 2)), cosines.diagonal(dim1=1, dim2=2)
    count, other = first.count, first if second is None else second
    if second is None:
        total -= diagonal.sum(1)
        diagonal.fill_(_NO_PAIR)
    if first.valid is not None:
        cosines.masked_fill_(~first.valid[..., None], _NO_PAIR)
    if other.valid is not None:
        cosines.masked_fill_(~other.valid[:, None], _NO_PAIR)
    degree = other.count - int(second is None)
    pairs = (count * degree).clamp_min(0)
    neighbour = first.mean(cosines.amax(2)).masked_fill(pairs == 0, torch.nan)
    return Pairs(total / pairs, neighbour, _histogram(cosines), pairs, degree)


def _histogram(cosines: Tensor) -> Tensor:
    """Count cosines [B, N, M], which are used up, in bins [B, BINS]; what is no pair is left out."""
    place = cosines.add_(1).mul_(BINS / 2).int().clamp_(-1, BINS - 1).flatten(1)  # rounding may exceed 1 by a hair
    batch = len(place)
    place += torch.arange(1, batch * (BINS + 1), BINS + 1, dtype=place.dtype, device=place.device)[:, None]
    return torch.bincount(place.flatten(), minlength=batch * (BINS + 1)).view(batch, BINS + 1)[:, 1:]


def effective_rank(x: Tensor) -> Tensor:
    """Return [B]: the exponential of the entropy of the singular values of [B, N, C], taken as shares of their sum.

    From 1, all vectors on one line, to min(N, C). Computed in float64 from the smaller Gram matrix, as one long common
    vector would otherwise hide the others. Where all vectors are 0 it is NaN.
    """
    x = (x.cpu() if x.device.type == "mps" else x).double()  # MPS has neither float64 nor eigenvalues
    gram = x.mT @ x if x.shape[1] > x.shape[2] else x @ x.mT
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    shares = values / values.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1).exp()
