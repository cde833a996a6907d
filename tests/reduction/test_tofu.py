"""ToFu against loops: ToMe's pairs, which early layers drop and later ones merge by direction and largest norm."""

import math

import pytest
import torch

from peer_states import assert_tokens, cosine, groups, layer, mean, single
from saintprune.reduction import Reduction
from saintprune.reduction.tofu import ToFu


def oracle(state, r):
    """The groups of one sample without padding, in the order of positions."""
    keys, prefix = state.keys[0].tolist(), state.prefix
    links = []
    for source in range(0, len(keys), 2):
        for destination in range(1, len(keys), 2):
            if source >= prefix and destination >= prefix:
                links.append((cosine(keys[source], keys[destination]), source, destination))
    best = {}
    for link in sorted(links, reverse=True):
        best.setdefault(link[1], link)
    gone = sorted(best.values(), reverse=True)[: min(r, (len(keys) - prefix) // 2)]
    left = {token: [token] for token in range(len(keys)) if token not in {source for _, source, _ in gone}}
    for _, source, destination in gone:
        left[destination].append(source)
    return [(token, sorted(members)) for token, members in left.items()]


def mlerp(tokens, sizes):
    direction = mean(tokens, sizes)
    longest = max(math.hypot(*token) for token in tokens)
    return [x * longest / math.hypot(*direction) for x in direction]


@pytest.mark.parametrize("lengths", [None, [23, 12, 17]])
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_late_layers_merge_by_mlerp(prefix, lengths):
    state = layer(prefix=prefix, lengths=lengths, layer=6)
    reduction = ToFu(r=5, order="position").select(state)
    for row in range(3):
        alone = single(state, row)
        expected = oracle(alone, 5)
        assert groups(reduction, row) == expected
        tokens, sizes = alone.tokens[0].tolist(), alone.sizes[0].tolist()
        merged = [mlerp([tokens[i] for i in members], [sizes[i] for i in members]) for _, members in expected]
        assert_tokens(reduction, state, merged, row)
        assert reduction.apply_sizes(state.sizes)[row].sum() == state.sizes[row, : len(tokens)].sum()


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_early_layers_drop_the_sources(prefix):
    state = layer(prefix=prefix, layer=5)
    reduction = ToFu(r=5, order="position").select(state)
    for row in range(3):
        expected = [token for token, _ in oracle(single(state, row), 5)]
        assert groups(reduction, row) == [(token, [token]) for token in expected]
        assert_tokens(reduction, state, [state.tokens[row, token].tolist() for token in expected], row)


@pytest.mark.parametrize(
    ("share", "depth", "first"), [(0.5, 12, 6), (0.0, 12, 0), (1.0, 4, 4), (3, 12, 3), (0.29, 100, 29)]
)
def test_where_merging_begins(share, depth, first):
    merges = [
        ToFu(r=2, prune_layers=share).select(layer(layer=number, depth=depth)).merge_to is not None
        for number in range(depth)
    ]
    assert merges == [number >= first for number in range(depth)]


def test_mlerp_by_hand():
    """Of (3, 0) and (0, 4): the mean of equal sizes points along (3, 4), the largest norm is 4."""
    x = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [1.0, 1.0]]])
    reduction = Reduction(torch.tensor([[0, 2]]), None, torch.tensor([[0, 0, 1]]), norm="max")
    torch.testing.assert_close(reduction.apply(x), torch.tensor([[[2.4, 3.2], [1.0, 1.0]]]))
    opposite = reduction.apply(torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]]))
    assert opposite.isfinite().all(), "a mean of 0 has no direction"


@pytest.mark.parametrize("value", [-1, 1.5])
def test_values_are_checked(value):
    with pytest.raises(ValueError, match="prune_layers"):
        ToFu(prune_layers=value)
