"""DiffRate against loops, its table, and the table's errors."""

import math

import pytest

from peer_states import assert_tokens, cosine, groups, layer, mean, single
from saintprune.reduction.diffrate import DiffRate


def oracle(state, dropped, joined):
    """The groups of one sample without padding."""
    keys, attention, prefix = state.keys[0].tolist(), state.importance()[0].tolist(), state.prefix
    ranking = sorted(range(prefix, len(keys)), key=lambda i: -attention[i])
    stays = ranking[: len(ranking) - dropped - joined]
    left = {token: [token] for token in [*range(prefix), *sorted(stays)]}
    for source in ranking[len(stays) : len(stays) + joined]:
        left[max(stays, key=lambda j: cosine(keys[source], keys[j]))].append(source)
    return [(token, sorted(members)) for token, members in left.items()]


@pytest.mark.parametrize("lengths", [None, [23, 12, 17]])
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_against_loops(number, prefix, lengths):
    method = DiffRate(prune=[0.2, 3, 0.0], merge=[0.3, 0, 4])
    state = layer(prefix=prefix, lengths=lengths, layer=number, depth=3)
    reduction = method.select(state)
    for row in range(3):
        alone = single(state, row)
        n = alone.patches
        counts = [(math.floor(0.2 * n + 1e-9), math.floor(0.3 * n + 1e-9)), (3, 0), (0, 4)][number]
        expected = oracle(alone, *counts)
        assert groups(reduction, row) == expected
        tokens, sizes = alone.tokens[0].tolist(), alone.sizes[0].tolist()
        merged = [mean([tokens[i] for i in members], [sizes[i] for i in members]) for _, members in expected]
        assert_tokens(reduction, state, merged, row)


@pytest.mark.parametrize("lengths", [None, [23, 12, 17]])
@pytest.mark.parametrize(
    ("table", "share"),
    [((4, 2), (2, 3)), ((0, 0), (0, 1)), ((2, 0), (1, 1)), ((0.0, 0.1), (0, 1))],
)
@pytest.mark.parametrize("budget", [1, 9, 14, 40])
def test_a_schedule_gives_the_total_and_the_table_the_proportion(budget, table, share, lengths):
    state = layer(lengths=lengths, budget=budget, depth=1)
    reduction = DiffRate([table[0]], [table[1]]).select(state)
    for row in range(3):
        alone = single(state, row)
        leaving = max(alone.patches - budget, 0)
        dropped = leaving * share[0] // share[1]
        assert groups(reduction, row) == oracle(alone, dropped, leaving - dropped)


def test_one_patch_stays():
    reduction = DiffRate([1.0], [1.0]).select(layer(depth=1))
    assert [len(groups(reduction, row)) for row in range(3)] == [2, 2, 2]
    assert [len(groups(DiffRate([5], [900]).select(layer(depth=1)), row)) for row in range(3)] == [2, 2, 2]


def test_a_table_of_another_depth_is_refused():
    with pytest.raises(ValueError, match="12 entries, but the network has 24 blocks: give one entry per block"):
        DiffRate([0.1] * 12, [0.0] * 12).select(layer(depth=24))


@pytest.mark.parametrize(
    ("prune", "merge", "message"),
    [([0.1], [0.1, 0.2], "1 entries and merge 2"), ([1.5], [0.1], "prune has 1.5"), ([1], [-2], "merge has -2")],
)
def test_values_are_checked(prune, merge, message):
    with pytest.raises(ValueError, match=message):
        DiffRate(prune, merge)
