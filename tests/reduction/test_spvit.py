"""SPViT against loops over heads, and the two ways in which heads weigh."""

import math

import pytest
import torch

from peer_states import assert_tokens, groups, layer, mean, single
from saintprune.reduction import LayerState
from saintprune.reduction.spvit import SPViT


def scores_of(state, heads):
    """Of one sample without padding."""
    rows = [row[state.prefix :] for row in state.head_importance()[0].tolist()]
    rows = [[value / sum(row) for value in row] for row in rows]
    weights = [1.0] * len(rows)
    if heads == "sharpness":
        most = math.log(state.patches)
        weights = [1 + sum(value * math.log(value) for value in row) / most for row in rows]
    return [sum(w * row[i] for w, row in zip(weights, rows, strict=True)) / sum(weights) for i in range(state.patches)]


def oracle(scores, prefix, best):
    """The groups: the `best` patches, the others in one token."""
    ranking = sorted(range(len(scores)), key=lambda i: -scores[i])
    found = [(i, [i]) for i in [*range(prefix), *(i + prefix for i in ranking[:best])]]
    rest = [i + prefix for i in ranking[best:]]
    return sorted(found + ([(rest[0], sorted(rest))] if rest else []))


@pytest.mark.parametrize("lengths", [None, [23, 12, 17]])
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize("heads", ["sharpness", "equal"])
@pytest.mark.parametrize("cut", [0.01, 0.8, 30.0])
def test_against_loops(cut, heads, prefix, lengths):
    state = layer(prefix=prefix, lengths=lengths)
    reduction = SPViT(cut, heads).select(state)
    for row in range(3):
        alone = single(state, row)
        scores = scores_of(alone, heads)
        expected = oracle(scores, prefix, sum(score >= cut / len(scores) for score in scores))
        assert groups(reduction, row) == expected
        tokens = alone.tokens[0].tolist()
        weights = [1.0] * prefix + scores
        merged = [mean([tokens[i] for i in members], [weights[i] for i in members]) for _, members in expected]
        assert_tokens(reduction, state, merged, row)


@pytest.mark.parametrize("lengths", [None, [23, 12, 17]])
@pytest.mark.parametrize("budget", [1, 2, 14, 40])
def test_a_schedule_gives_the_number(budget, lengths):
    state = layer(lengths=lengths, budget=budget)
    reduction = SPViT().select(state)
    for row in range(3):
        alone = single(state, row)
        best = min(budget, alone.patches) - 1
        assert groups(reduction, row) == oracle(scores_of(alone, "sharpness"), 1, best)


def test_a_sharp_head_weighs_more():
    """Two even heads see nothing; the sharp one finds patch 3."""
    even = [0.25] * 4
    rows = torch.tensor([[[0.26, 0.25, 0.25, 0.24], [0.01, 0.01, 0.01, 0.97], even]])
    state = LayerState(keys=torch.zeros(1, 4, 0), attention=lambda: rows.mean(1), head_attention=lambda: rows)
    assert SPViT(cut=1.0).select(state).keep[0].tolist() == [0, 3]
    scores = SPViT()._scores(state)[0]
    assert scores[3] > 0.96 and SPViT(heads="equal")._scores(state)[0, 3] < 0.5


def test_heads_must_have_been_told_apart():
    with pytest.raises(ValueError, match="site=vision"):
        SPViT().select(LayerState(keys=torch.zeros(1, 4, 0), attention=lambda: torch.ones(1, 4)))


@pytest.mark.parametrize(("knob", "value"), [("cut", 0.0), ("heads", "loud")])
def test_values_are_checked(knob, value):
    with pytest.raises(ValueError, match=knob):
        SPViT(**{knob: value})
