"""What one layer's tokens are like: pure maths on one batch, one number per image and metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from saintprune.analysis.similarity import Pairs, Vectors, compare, effective_rank

THRESHOLDS = (0.5, 0.75, 0.9)
CENTRED = "_centred"


@dataclass(frozen=True, eq=False)
class Statistics:
    """The statistics of one layer.

    Attributes:
        values: metric -> [B]; NaN for an image that has too few tokens for it.
        histograms: name -> [BINS] int64, counts over the batch of pairs by their cosine (`similarity.edges`).
    """

    values: Mapping[str, Tensor]
    histograms: Mapping[str, Tensor]


@torch.no_grad()
def token_statistics(
    keys: Tensor,
    states: Tensor,
    previous: Tensor | None = None,
    *,
    prefix: int = 0,
    valid: Tensor | None = None,
    attention: Tensor | None = None,
    ranked: Tensor | slice = slice(None),
) -> Statistics:
    """Return the statistics of one layer over the patches, that is, the tokens after the first `prefix`.

    Names that end in `_centred` are about the mean of the image's patches. Metrics:
    key_cosine, state_cosine: mean cosine of two different patches' keys, and of their states;
    neighbour_cosine, state_neighbour_cosine: mean cosine with the most similar other patch, by keys and by states;
    edges@t, degree@t: share of pairs whose keys have a cosine >= t, and such neighbours per patch;
    effective_rank_keys, effective_rank_states: see `effective_rank`;
    self_similarity: mean cosine of a patch's state with the same before the layer;
    cls_similarity: mean cosine of the patches' states with that of the first special token;
    attention_entropy: of what the query row gives to the patches, as shares, over its maximum log P;
    attention_share: of the query row that goes to patches;
    norm_mean, norm_max_over_median: lengths of the patches' states, and how far the longest stands out.

    Args:
        keys: [B, N, C], averaged over heads.
        states: [B, N, D], tokens after the layer.
        previous: [B, N, D], the same tokens before it; without them there is no self-similarity.
        prefix: number of special tokens, which stand first; without any there is no cls_similarity.
        valid: [B, N] bool, False marks padding; None means none.
        attention: [B, N], the query row, which sums to at most 1; without it there is no attention metric.
        ranked: which images get an effective rank of their states, by far the dearest figure; the others NaN.
    """
    real = None if valid is None else valid[:, prefix:]
    of_keys = Vectors.about_mean(_wide(keys[:, prefix:]), real)
    of_states = Vectors.about_mean(_wide(states[:, prefix:]), real)
    values: dict[str, Tensor] = {}
    histograms: dict[str, Tensor] = {}
    for raw_or_centred, pairs in zip(("", CENTRED), compare(of_keys), strict=True):
        values |= _graph(pairs, raw_or_centred, degrees=True)
        histograms["key_cosine" + raw_or_centred] = pairs.histogram.sum(0)
    for raw_or_centred, pairs in zip(("", CENTRED), compare(of_states), strict=True):
        values |= _state_pairs(pairs, raw_or_centred)
        histograms["state_cosine" + raw_or_centred] = pairs.histogram.sum(0)
    values |= _ranks("effective_rank_keys", of_keys, slice(None))
    values |= _ranks("effective_rank_states", of_states, ranked)
    if previous is not None:
        before = Vectors.about_mean(_wide(previous[:, prefix:]), real)
        values |= _similarity("self_similarity", of_states, before.offset, before.centre)
    if prefix:
        special = _wide(states[:, :1])
        values |= _similarity("cls_similarity", of_states, special - of_states.centre, of_states.centre)
    if attention is not None:
        values |= _attention(attention[:, prefix:].to(of_states.offset.dtype), of_states)
    values |= _norms(of_states)
    few = of_states.count < 2
    return Statistics({name: value.masked_fill(few, torch.nan) for name, value in values.items()}, histograms)


@torch.no_grad()
def cross_statistics(keys: tuple[Tensor, Tensor], states: tuple[Tensor, Tensor], *, valid: tuple) -> Statistics:
    """Return the statistics between two groups of each image's tokens, such as vision and text.

    Metrics, named as in `token_statistics`: key_cosine, state_cosine, neighbour_cosine and state_neighbour_cosine (from
    each token of the first group to the most similar one of the second) and edges@t. `_centred` is about the mean of
    both groups together, in which each token counts once.

    Args:
        keys: [B, N, C] and [B, M, C].
        states: [B, N, D] and [B, M, D].
        valid: [B, N] and [B, M] bool, False marks padding; None means none.
    """
    of_keys, of_states = (compare(*_about_common_mean(*both, *valid)) for both in (keys, states))
    values: dict[str, Tensor] = {}
    histograms: dict[str, Tensor] = {}
    for number, raw_or_centred in enumerate(("", CENTRED)):
        values |= _graph(of_keys[number], raw_or_centred, degrees=False)
        values |= _state_pairs(of_states[number], raw_or_centred)
        histograms["key_cosine" + raw_or_centred] = of_keys[number].histogram.sum(0)
        histograms["state_cosine" + raw_or_centred] = of_states[number].histogram.sum(0)
    return Statistics(values, histograms)


def _about_common_mean(
    first: Tensor, second: Tensor, first_valid: Tensor | None, second_valid: Tensor | None
) -> tuple[Vectors, Vectors]:
    """Return two groups about the mean of both."""
    split, ones = first.shape[1], torch.ones
    marks = [
        ones(x.shape[:2], dtype=torch.bool, device=x.device) if valid is None else valid
        for x, valid in ((first, first_valid), (second, second_valid))
    ]
    both = Vectors.about_mean(_wide(torch.cat([first, second], 1)), torch.cat(marks, 1))
    return (
        Vectors(both.offset[:, :split], both.centre, first_valid),
        Vectors(both.offset[:, split:], both.centre, second_valid),
    )


def _wide(x: Tensor) -> Tensor:
    """Return float32, or float64 where it is that already."""
    return x if x.dtype == torch.float64 else x.float()


def _graph(pairs: Pairs, suffix: str, degrees: bool) -> dict[str, Tensor]:
    """Return the metrics of the keys' pairs."""
    found = {"key_cosine" + suffix: pairs.cosine, "neighbour_cosine" + suffix: pairs.neighbour}
    for threshold in THRESHOLDS:
        share = pairs.share(threshold)
        found[f"edges@{threshold:g}{suffix}"] = share
        if degrees:
            found[f"degree@{threshold:g}{suffix}"] = share * pairs.degree
    return found


def _state_pairs(pairs: Pairs, suffix: str) -> dict[str, Tensor]:
    return {"state_cosine" + suffix: pairs.cosine, "state_neighbour_cosine" + suffix: pairs.neighbour}


def _ranks(name: str, x: Vectors, ranked: Tensor | slice) -> dict[str, Tensor]:
    """Return the effective ranks, raw and centred, of some images."""
    found = {}
    for suffix, matrix in (("", x.raw(ranked)), (CENTRED, x.offset[ranked])):
        value = x.offset.new_full((len(x.offset),), torch.nan)
        value[ranked] = effective_rank(matrix).to(value)
        found[name + suffix] = value
    return found


def _similarity(name: str, x: Vectors, offset: Tensor, centre: Tensor) -> dict[str, Tensor]:
    """Return the mean cosine, raw and centred, of vectors with partners: offset [B, N or 1, D], centre [B, 1, D]."""
    partner = Vectors(offset, centre)
    inside = (x.offset * offset).sum(-1)
    raw = inside + (x.offset @ centre.mT + offset @ x.centre.mT + centre @ x.centre.mT)[..., 0]
    return {
        name + suffix: x.mean(product * x.inverse_lengths(centred) * partner.inverse_lengths(centred))
        for suffix, product, centred in (("", raw, False), (CENTRED, inside, True))
    }


def _attention(row: Tensor, patches: Vectors) -> dict[str, Tensor]:
    """Return the metrics of what the query row gives to the patches, [B, P]."""
    if patches.valid is not None:
        row = row.masked_fill(~patches.valid, 0)
    share = row.sum(1)
    entropy = torch.special.entr(row / share[:, None]).sum(1) / patches.count.log()
    return {"attention_entropy": entropy, "attention_share": share}


def _norms(x: Vectors) -> dict[str, Tensor]:
    real = x.lengths if x.valid is None else x.lengths.masked_fill(~x.valid, torch.nan)
    return {"norm_mean": x.mean(x.lengths), "norm_max_over_median": x.lengths.amax(1) / real.nanquantile(0.5, dim=1)}
