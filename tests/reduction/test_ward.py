"""Ward against loops over lists, and two cases by hand."""

import math
from dataclasses import replace

import pytest
import torch

from peer_states import assert_tokens, cosine, groups, layer, mean, single
from saintprune.reduction import LayerState
from saintprune.reduction.ward import Ward


def unit(key):
    length = math.sqrt(sum(x * x for x in key))
    return [x / length for x in key]


def oracle(state, method, left):
    """The groups of one sample without padding: its survivors in order, each with its members."""
    keys, attention = state.keys[0].tolist(), state.importance()[0].tolist()
    clusters = [
        {"seat": i, "members": [i], "key": unit(keys[i]), "mass": attention[i], "size": state.sizes[0, i].item()}
        for i in range(state.prefix, len(keys))
    ]
    while len(clusters) > left:
        pairs = min(len(clusters) - left, math.ceil(method.share * len(clusters) - 1e-9), len(clusters) // 2)
        links = []
        for place in range(0, len(clusters), 2):
            a = clusters[place]
            options = []
            for other in range(1, len(clusters), 2):
                b = clusters[other]
                wa, wb = a["mass"] ** method.power, b["mass"] ** method.power
                options.append(((1 - cosine(a["key"], b["key"])) * wa * wb / (wa + wb), other))
            links.append((*min(options), place))
        gone = set()
        before = [dict(c) for c in clusters]
        for _, other, place in sorted(links)[:pairs]:
            a, b = before[place], clusters[other]
            total = a["size"] + b["size"]
            b["key"] = [(a["size"] * x + b["size"] * y) / total for x, y in zip(a["key"], b["key"], strict=True)]
            b["members"] = b["members"] + a["members"]
            b["mass"], b["size"] = a["mass"] + b["mass"], total
            gone.add(place)
        clusters = [c | {"key": unit(c["key"])} for place, c in enumerate(clusters) if place not in gone]
    special = [(i, [i]) for i in range(state.prefix)]
    return special + [(c["seat"], sorted(c["members"])) for c in clusters]


@pytest.mark.parametrize("lengths", [None, [23, 12, 17]])
@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("budget", [1, 4, 9, 15, 40])
def test_against_loops(budget, prefix, lengths):
    state, method = layer(prefix=prefix, lengths=lengths, budget=budget), Ward()
    reduction = method.select(state)
    for row in range(3):
        alone = single(state, row)
        expected = oracle(alone, method, budget)
        assert groups(reduction, row) == expected
        if reduction.merge_to is None:
            continue
        tokens, weights = alone.tokens[0].tolist(), alone.importance()[0].tolist()
        merged = [mean([tokens[i] for i in members], [weights[i] for i in members]) for _, members in expected]
        assert_tokens(reduction, state, merged, row)


def line(*angles):
    """Keys in the plane at some angles, in degrees."""
    radians = torch.tensor(angles).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=-1)[None]


def test_of_two_equal_distances_the_one_that_is_looked_at_less_merges():
    attention = torch.tensor([[0.4, 0.4, 0.1, 0.1]])
    state = LayerState(keys=line(0, 10, 90, 100), budget=3, attention=lambda: attention)
    assert groups(Ward().select(state)) == [(0, [0]), (1, [1]), (3, [2, 3])]


@pytest.mark.parametrize("place", range(24))
def test_an_outlier_stays_alone_where_a_single_matching_would_take_it(place):
    """ToMe, which must pair every source with something to leave half of the patches, merges it at even places."""
    angles = [float(i) for i in range(24)]
    angles[place] = 170.0
    state = LayerState(keys=line(*angles), budget=8, attention=lambda: torch.full((1, 24), 1 / 24))
    assert [place] in [members for _, members in groups(Ward().select(state))]


def test_heads_count_alike_however_long_their_keys_are():
    """By mean keys the longer head decides, and patch 0 would join patch 3."""
    heads = torch.stack([line(0, 0, 60, 60), 10 * line(0, 80, 180, 75)], dim=1)
    state = LayerState(keys=heads.mean(1), budget=3, attention=lambda: torch.full((1, 4), 0.25))
    assert groups(Ward().select(state)) == [(1, [1]), (2, [2]), (3, [0, 3])]
    assert groups(Ward().select(replace(state, keys_by_head=lambda: heads))) == [(1, [0, 1]), (2, [2]), (3, [3])]


def test_attention_of_zero_is_no_trouble():
    attention = torch.tensor([[0.0, 0.0, 0.0, 1.0, 0.0]])
    state = LayerState(keys=line(0, 40, 80, 120, 160), prefix=1, budget=1, attention=lambda: attention)
    reduction = Ward().select(state)
    assert groups(reduction) == [(0, [0]), (groups(reduction)[1][0], [1, 2, 3, 4])]
    assert reduction.apply(state.keys).isfinite().all()


@pytest.mark.parametrize("values, message", [({"share": 0.0}, "share is 0.0"), ({"share": 0.6}, "share is 0.6"),
                                             ({"power": 1.5}, "power is 1.5")])  # fmt: skip
def test_values_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        Ward(**values)


def test_it_needs_a_number_of_tokens():
    with pytest.raises(ValueError, match="Ward ranks tokens but does not decide how many"):
        Ward().select(layer())
