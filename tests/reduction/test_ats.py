"""ATS against loops over quantiles, one by one."""

import math

import pytest
import torch

from peer_states import groups, layer, single
from saintprune.reduction import LayerState
from saintprune.reduction.ats import ATS


def scores_of(state):
    """Of one sample without padding: per head attention times value norm, divided by their sum; mean over heads."""
    rows, norms = state.head_importance()[0].tolist(), state.value_norms()[0].tolist()
    found = [0.0] * state.patches
    for row, norm in zip(rows, norms, strict=True):
        products = [a * v for a, v in zip(row, norm, strict=True)][state.prefix :]
        found = [f + p / sum(products) / len(rows) for f, p in zip(found, products, strict=True)]
    return found


def fallen_on(mass, quantiles):
    """The places on which quantiles of a running sum fall."""
    found = set()
    for quantile in quantiles:
        total = 0.0
        for place, part in enumerate(mass):
            total += part
            if total >= quantile:
                found.add(place)
                break
    return sorted(found)


@pytest.mark.parametrize("lengths", [None, [23, 12, 17]])
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize("samples", [1.0, 0.5, 6, 50])
def test_against_loops(samples, prefix, lengths):
    state = layer(prefix=prefix, lengths=lengths)
    reduction = ATS(samples).select(state)
    for row in range(3):
        alone = single(state, row)
        count = math.ceil(samples * alone.patches) if isinstance(samples, float) else samples
        expected = fallen_on(scores_of(alone), [(i + 0.5) / count for i in range(count)])
        assert [token for token, _ in groups(reduction, row)] == [*range(prefix), *(i + prefix for i in expected)]


@pytest.mark.parametrize("lengths", [None, [23, 12, 17]])
@pytest.mark.parametrize("budget", [1, 2, 7, 13, 20, 40])
def test_under_a_schedule_every_quantile_has_a_patch_of_its_own(budget, lengths):
    state = layer(lengths=lengths, budget=budget)
    reduction = ATS().select(state)
    for row in range(3):
        alone = single(state, row)
        scores, count = scores_of(alone), min(budget, alone.patches)
        low, high = 0.0, 1e9  # by bisection: the least scale at which the capped scores sum up to the count
        for _ in range(200):
            middle = (low + high) / 2
            enough = sum(min(1.0, middle * score) for score in scores) >= count - 1e-9
            low, high = (low, middle) if enough else (middle, high)
        mass = [min(1.0, high * score) for score in scores]
        expected = fallen_on(mass, [i + 0.5 for i in range(count)])
        assert len(expected) == count
        assert [token - 1 for token, _ in groups(reduction, row)[1:]] == expected


def test_the_count_adapts_to_the_image():
    """Attention on one patch leaves few, even attention leaves all."""
    rows = torch.stack([torch.full((16,), 1 / 16), torch.tensor([0.97, *[0.002] * 15])])[:, None]
    state = LayerState(
        keys=torch.zeros(2, 16, 0), attention=lambda: rows[:, 0], head_attention=lambda: rows,
        values=lambda: torch.ones_like(rows),
    )  # fmt: skip
    reduction = ATS().select(state)
    assert reduction.valid is not None and reduction.valid.sum(1).tolist() == [16, 1]
    assert reduction.keep[1, 0] == 0


def test_values_count():
    rows, values = torch.full((1, 1, 4), 0.25), torch.tensor([[[0.1, 8.0, 0.1, 0.1]]])
    given = {"keys": torch.zeros(1, 4, 0), "attention": lambda: rows[:, 0], "head_attention": lambda: rows}
    assert ATS().select(LayerState(values=lambda: values, **given)).keep.tolist() == [[1]]
    with pytest.raises(ValueError, match="values in the method's `reads`"):
        ATS().select(LayerState(**given))


@pytest.mark.parametrize("value", [0, -3, 1.5])
def test_samples_are_checked(value):
    with pytest.raises(ValueError, match="samples"):
        ATS(samples=value)
