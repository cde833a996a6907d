"""PiToMe against loops over the energy's formula, and a case by hand."""

import math

import pytest
import torch

from peer_states import assert_tokens, cosine, groups, layer, mean, single
from saintprune.reduction import LayerState
from saintprune.reduction.pitome import PiToMe


def oracle(state, method, pairs):
    """The groups of one sample without padding."""
    keys, prefix = state.keys[0].tolist(), state.prefix
    patches = range(prefix, len(keys))
    margin = method.margin - method.margin * state.layer / state.depth
    energy = {}
    for i in patches:
        values = []
        for j in patches:
            if i != j:
                x = cosine(keys[i], keys[j])
                values.append(x if x >= margin else method.alpha * (math.exp(x - margin) - 1))
        energy[i] = sum(values) / max(len(values), 1)
    mergeable = sorted(patches, key=lambda i: -energy[i])[: 2 * pairs]
    left = {token: [token] for token in range(len(keys)) if token not in mergeable[::2]}
    for source in mergeable[::2]:
        left[max(mergeable[1::2], key=lambda j: cosine(keys[source], keys[j]))].append(source)
    return [(token, sorted(members)) for token, members in left.items()]


@pytest.mark.parametrize("lengths", [None, [23, 12, 17]])
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize("number", [0, 7])
def test_against_loops(number, prefix, lengths):
    state, method = layer(prefix=prefix, lengths=lengths, layer=number), PiToMe(ratio=0.8, alpha=0.7)
    reduction = method.select(state)
    for row in range(3):
        alone = single(state, row)
        patches = alone.patches
        expected = oracle(alone, method, patches - math.ceil(0.8 * patches - 1e-9))
        assert groups(reduction, row) == expected
        tokens, sizes = alone.tokens[0].tolist(), alone.sizes[0].tolist()
        merged = [mean([tokens[i] for i in members], [sizes[i] for i in members]) for _, members in expected]
        assert_tokens(reduction, state, merged, row)


@pytest.mark.parametrize("lengths", [None, [23, 12, 17]])
@pytest.mark.parametrize("budget", [1, 9, 15, 40])
def test_a_schedule_gives_the_number(budget, lengths):
    state = layer(lengths=lengths, budget=budget)
    reduction = PiToMe().select(state)
    for row in range(3):
        alone = single(state, row)
        pairs = min(max(alone.patches - budget, 0), alone.patches // 2)
        assert groups(reduction, row) == oracle(alone, PiToMe(), pairs)


def test_dense_places_merge_and_lonely_patches_are_protected():
    """Three patches point one way, two lie apart: one pair merges, out of the three."""
    angles = torch.tensor([0.0, 0.05, 0.11, 1.5, 3.0])
    keys = torch.stack([angles.cos(), angles.sin()], dim=-1)[None]
    reduction = PiToMe(ratio=0.8, alpha=0.0).select(LayerState(keys=keys, depth=12))
    assert reduction.keep.tolist() == [[0, 2, 3, 4]]  # energies of the three: 1.9927, 1.9970, 1.9922
    assert reduction.merge_to.tolist() == [[0, 0, 1, 2, 3]]


@pytest.mark.parametrize(("knob", "value"), [("ratio", 1.1), ("margin", -2), ("alpha", -1)])
def test_values_are_checked(knob, value):
    with pytest.raises(ValueError, match=knob):
        PiToMe(**{knob: value})
