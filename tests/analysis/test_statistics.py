"""Every statistic against slow loops over tokens and pairs, with and without special tokens and padding."""

import math

import pytest
import torch

from saintprune.analysis.similarity import BINS, Vectors, compare, edges, effective_rank
from saintprune.analysis.statistics import THRESHOLDS, cross_statistics, token_statistics

BATCH, TOKENS, KEY, WIDTH = 3, 9, 4, 12
PADDED = torch.tensor([[True] * 9, [True] * 6 + [False] * 3, [True] * 8 + [False]])


def layer(dtype=torch.float64, shift=1.0):
    """Keys, states, states before and an attention row of a made-up layer; a shift gives all a common vector."""
    generator = torch.Generator().manual_seed(3)
    keys, states, previous = (
        torch.randn(BATCH, TOKENS, width, generator=generator, dtype=torch.float64) + shift
        for width in (KEY, WIDTH, WIDTH)
    )
    row = torch.rand(BATCH, TOKENS, generator=generator, dtype=torch.float64).mul(3).softmax(-1)
    return tuple(x.to(dtype) for x in (keys, states, previous, row))


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def pairs_by_hand(name, first, second=None):
    """Metrics and cosines of all pairs of two sets of vectors, or of different vectors of one set."""
    table = [
        [cosine(a, b) for j, b in enumerate(first if second is None else second) if second is not None or i != j]
        for i, a in enumerate(first)
    ]
    every = [value for line in table for value in line]
    neighbour = "neighbour_cosine" if name == "key" else "state_neighbour_cosine"
    found = {
        f"{name}_cosine": sum(every) / len(every),
        neighbour: sum(max(line) for line in table) / len(table),
    }
    if name == "key":
        for threshold in THRESHOLDS:
            degrees = [sum(value >= threshold for value in line) for line in table]
            found[f"edges@{threshold:g}"] = sum(degrees) / len(every)
            if second is None:
                found[f"degree@{threshold:g}"] = sum(degrees) / len(degrees)
    return found, every


def rank_by_hand(x):
    values = torch.linalg.svdvals(x)
    shares = [float(value / values.sum()) for value in values]
    return math.exp(-sum(share * math.log(share) for share in shares if share > 1e-9))


def by_hand(keys, states, previous, row, prefix):
    """All metrics of one image without padding."""
    special, keys, states, previous = states[0], keys[prefix:], states[prefix:], previous[prefix:]
    found, every = {}, {}
    for suffix, centre in (("", 0), ("_centred", 1)):
        k, s, p = (x - centre * x.mean(0) for x in (keys, states, previous))
        for name, x in (("key", k), ("state", s)):
            metrics, every[f"{name}_cosine{suffix}"] = pairs_by_hand(name, x)
            found |= {metric + suffix: value for metric, value in metrics.items()}
        found["effective_rank_keys" + suffix] = rank_by_hand(k)
        found["effective_rank_states" + suffix] = rank_by_hand(s)
        found["self_similarity" + suffix] = sum(cosine(a, b) for a, b in zip(s, p, strict=True)) / len(s)
        if prefix:
            other = special - centre * states.mean(0)
            found["cls_similarity" + suffix] = sum(cosine(a, other) for a in s) / len(s)
    share = float(row[prefix:].sum())
    parts = [float(value) / share for value in row[prefix:]]
    found["attention_share"] = share
    found["attention_entropy"] = -sum(part * math.log(part) for part in parts) / math.log(len(parts))
    lengths = sorted(float(x.norm()) for x in states)
    middle = (lengths[(len(lengths) - 1) // 2] + lengths[len(lengths) // 2]) / 2
    found["norm_mean"] = sum(lengths) / len(lengths)
    found["norm_max_over_median"] = lengths[-1] / middle
    return found, every


def counted(values):
    """Histogram of cosines by a loop over them."""
    counts = [0] * BINS
    for value in values:
        counts[min(int((value + 1) * BINS / 2), BINS - 1)] += 1
    return torch.tensor(counts)


@pytest.mark.parametrize("valid", [None, PADDED], ids=["full", "padded"])
@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_statistics_by_hand(prefix, valid):
    keys, states, previous, row = layer()
    found = token_statistics(keys, states, previous, prefix=prefix, valid=valid, attention=row)
    histograms = {name: torch.zeros(BINS, dtype=torch.long) for name in found.histograms}
    for image in range(BATCH):
        real = slice(None) if valid is None else valid[image]
        expected, every = by_hand(*(x[image, real] for x in (keys, states, previous, row)), prefix)
        assert set(expected) == set(found.values)
        for name, value in expected.items():
            digits = 1e-5 if "rank" in name else 1e-9  # singular values by the roots of eigenvalues
            assert float(found.values[name][image]) == pytest.approx(value, abs=digits), name
        for name, values in every.items():
            histograms[name] += counted(values)
    for name, counts in histograms.items():
        assert torch.equal(found.histograms[name], counts), name


def test_padding_may_hold_anything():
    keys, states, previous, row = layer()
    plain = token_statistics(keys, states, previous, prefix=1, valid=PADDED, attention=row)
    for x in (keys, states, previous, row):
        x[~PADDED] = 1e6
    wild = token_statistics(keys, states, previous, prefix=1, valid=PADDED, attention=row)
    for name, value in plain.values.items():
        torch.testing.assert_close(wild.values[name], value)
    assert all(torch.equal(wild.histograms[name], counts) for name, counts in plain.histograms.items())


@pytest.mark.parametrize("padded", [False, True])
def test_cross_statistics_by_hand(padded):
    keys, states, _, _ = layer()
    marks = (PADDED[:, :5], PADDED[:, 5:]) if padded else (None, None)
    found = cross_statistics((keys[:, :5], keys[:, 5:]), (states[:, :5], states[:, 5:]), valid=marks)
    for image in range(BATCH):
        real = PADDED[image] if padded else torch.ones(TOKENS, dtype=torch.bool)
        first = int(real[:5].sum())
        for suffix, centre in (("", 0), ("_centred", 1)):
            for name, x in (("key", keys[image, real]), ("state", states[image, real])):
                x = x - centre * x.mean(0)
                for metric, value in pairs_by_hand(name, x[:first], x[first:])[0].items():
                    assert float(found.values[metric + suffix][image]) == pytest.approx(value, abs=1e-9), metric
    assert int(found.histograms["key_cosine"].sum()) == sum(
        (int(PADDED[i, :5].sum()) * int(PADDED[i, 5:].sum())) if padded else 20 for i in range(BATCH)
    )


def test_float32_and_half_precision_are_close():
    exact = token_statistics(*layer()[:3], prefix=1, attention=layer()[3])
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.05)):
        keys, states, previous, row = layer(dtype)
        found = token_statistics(keys.float(), states, previous, prefix=1, attention=row)
        for name in ("key_cosine_centred", "state_cosine", "self_similarity_centred", "attention_entropy"):
            torch.testing.assert_close(found.values[name].double(), exact.values[name], atol=tolerance, rtol=0)


def test_a_common_vector_does_not_blur_what_is_centred():
    """Keys that differ in their fifth digit: subtracting the common part from cosines would leave nothing of them."""
    generator = torch.Generator().manual_seed(1)
    offsets = torch.randn(2, 20, 6, generator=generator)
    _, plain = compare(Vectors.about_mean(offsets))
    _, shifted = compare(Vectors.about_mean(offsets + 2.0**12))
    torch.testing.assert_close(shifted.cosine, plain.cosine, atol=1e-4, rtol=0)
    torch.testing.assert_close(shifted.neighbour, plain.neighbour, atol=1e-3, rtol=0)


def test_tokens_without_a_direction():
    """Identical tokens, and tokens of length zero."""
    same = torch.full((1, 5, 3), 2.0)
    found = token_statistics(same, torch.zeros(1, 5, 3), same)
    assert found.values["key_cosine"] == pytest.approx(1) and found.values["edges@0.9"] == 1
    assert found.values["key_cosine_centred"] == 0 and found.values["state_cosine"] == 0
    torch.testing.assert_close(found.values["effective_rank_keys"], torch.ones(1))
    assert found.values["effective_rank_states"].isnan() and found.values["self_similarity"] == 0


def test_too_few_tokens_give_no_value():
    keys, states, previous, row = layer()
    valid = torch.zeros(BATCH, TOKENS, dtype=torch.bool)
    valid[:, 0] = True  # the special one
    valid[1, 1] = True
    valid[2, 1:4] = True
    found = token_statistics(keys, states, previous, prefix=1, valid=valid, attention=row)
    for name, value in found.values.items():
        assert value[:2].isnan().all() and not value[2].isnan(), name
    assert int(found.histograms["key_cosine"].sum()) == 6
    none = (valid[:, :1] & False, valid[:, 1:])
    across = cross_statistics((keys[:, :1], keys[:, 1:]), (states[:, :1], states[:, 1:]), valid=none)
    assert all(value.isnan().all() for value in across.values.values())


def test_only_some_images_are_ranked():
    keys, states, _, _ = layer()
    every = token_statistics(keys, states).values["effective_rank_states"]
    some = token_statistics(keys, states, ranked=slice(1, None, 2)).values["effective_rank_states"]
    assert some.isnan().tolist() == [True, False, True]
    torch.testing.assert_close(some[1], every[1])
    none = token_statistics(keys, states, ranked=slice(5, None, 8)).values
    assert none["effective_rank_states"].isnan().all() and not none["effective_rank_keys"].isnan().any()


@pytest.mark.parametrize("shape", [(40, 7), (7, 40)])
def test_effective_rank_of_known_matrices(shape):
    line = torch.ones(1, *shape) * torch.arange(1.0, shape[0] + 1)[:, None]
    torch.testing.assert_close(effective_rank(line), torch.ones(1, dtype=torch.float64), atol=1e-5, rtol=0)
    orthogonal = torch.eye(*shape)[None]
    torch.testing.assert_close(effective_rank(orthogonal), torch.full((1,), 7.0, dtype=torch.float64))


def test_thresholds_are_edges_of_the_histogram():
    assert all(torch.isclose(edges(), torch.tensor(t, dtype=torch.float64)).any() for t in THRESHOLDS)
