"""EViT against loops, and a case by hand."""

import math

import pytest
import torch

from peer_states import assert_tokens, groups, layer, mean, single
from saintprune.reduction import LayerState
from saintprune.reduction.evit import EViT


def oracle(state, left, fuse):
    """The groups of one sample without padding: `left` patches stay, or `left - 1` and the fused token."""
    attention, prefix = state.importance()[0].tolist(), state.prefix
    ranking = sorted(range(prefix, len(attention)), key=lambda i: -attention[i])
    apart = ranking[: left - 1] if fuse else ranking[:left]
    rest = ranking[left - 1 :] if fuse else []
    found = [(i, [i]) for i in [*range(prefix), *apart]] + ([(rest[0], sorted(rest))] if rest else [])
    return sorted(found)


def values(state, expected):
    tokens, attention = state.tokens[0].tolist(), state.importance()[0].tolist()
    return [mean([tokens[i] for i in members], [attention[i] for i in members]) for _, members in expected]


@pytest.mark.parametrize("lengths", [None, [23, 12, 17]])
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize("fuse", [True, False])
def test_against_loops(fuse, prefix, lengths):
    state = layer(prefix=prefix, lengths=lengths)
    reduction = EViT(ratio=0.6, fuse=fuse).select(state)
    for row in range(3):
        alone = single(state, row)
        left = min(math.ceil(0.6 * alone.patches - 1e-9) + fuse, alone.patches)
        expected = oracle(alone, left, fuse)
        assert groups(reduction, row) == expected
        assert_tokens(reduction, state, values(alone, expected), row)


@pytest.mark.parametrize("lengths", [None, [23, 12, 17]])
@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("budget", [1, 2, 14, 40])
def test_a_schedule_gives_the_number(budget, fuse, lengths):
    state = layer(lengths=lengths, budget=budget)
    reduction = EViT(fuse=fuse).select(state)
    for row in range(3):
        alone = single(state, row)
        assert groups(reduction, row) == oracle(alone, min(budget, alone.patches), fuse)


def test_by_hand():
    attention, x = torch.tensor([[0.4, 0.1, 0.2, 0.3, 0.0]]), torch.tensor([[[9.0], [3.0], [0.0], [7.0], [5.0]]])
    state = LayerState(keys=x[..., :0], prefix=1, tokens=x, attention=lambda: attention)
    reduction = EViT(ratio=0.25).select(state)
    assert reduction.keep.tolist() == [[0, 2, 3]] and reduction.merge_to.tolist() == [[0, 1, 1, 2, 1]]
    torch.testing.assert_close(reduction.apply(x, torch.full((1, 5), 8.0)), torch.tensor([[[9.0], [1.0], [7.0]]]))
    assert reduction.apply_sizes(torch.ones(1, 5)).tolist() == [[1, 3, 1]], "sizes do not depend on the weights"


def test_attention_that_underflows_still_gives_a_mean():
    attention = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    state = LayerState(keys=torch.zeros(1, 4, 0), prefix=1, attention=lambda: attention, budget=1)
    x = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    torch.testing.assert_close(EViT().select(state).apply(x), torch.tensor([[[1.0], [3.0]]]))


@pytest.mark.parametrize("value", [0.0, 1.1])
def test_values_are_checked(value):
    with pytest.raises(ValueError, match="ratio"):
        EViT(ratio=value)
