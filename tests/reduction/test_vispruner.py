"""VisPruner against plain loops."""

import math

import pytest
import torch

from peer_states import cosine
from peer_states_vlm import alone, best_first, check_padding, kept, patches, ragged
from saintprune.reduction import LayerState
from saintprune.reduction.vispruner import VisPruner


def oracle(keys, attention, budget, share, per_round):
    """Important ones, and those that survive the rounds."""
    diverse = round(budget * share)
    important = best_first(attention)[: budget - diverse]
    rest = [i for i in range(len(keys)) if i not in important]
    while diverse and len(rest) > diverse:
        count = min(max(1, math.ceil(len(rest) * per_round)), len(rest) - diverse)
        redundancy = [max(cosine(keys[i], keys[j]) for j in rest[1::2]) for i in rest[::2]]
        gone = [rest[::2][place] for place in best_first(redundancy)[:count]]
        rest = [i for i in rest if i not in gone]
    return sorted([*important, *(rest if diverse else [])])


@pytest.mark.parametrize("budget", [2, 5, 9])
@pytest.mark.parametrize(("share", "per_round"), [(0.5, 0.25), (1.0, 0.5), (0.3, 0.05), (0.0, 0.25)])
@pytest.mark.parametrize("seed", range(3))
def test_equals_plain_loops(budget, share, per_round, seed):
    state = alone(ragged(seed=seed, budget=budget), 0)
    keys, attention, _ = patches(state)
    expected = oracle(keys, attention, budget, share, per_round)
    assert kept(VisPruner(share, per_round).select(state)) == expected


@pytest.mark.parametrize("budget", [1, 6, 7, 10, 18])
@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_padding_changes_nothing(budget, share):
    check_padding(VisPruner(share), ragged(budget=budget))


def test_near_duplicates_lose_to_the_odd_one_out():
    keys = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.1]]])
    state = LayerState(keys=keys, budget=3, attention=lambda: torch.rand(1, 4))
    assert VisPruner(diverse=1.0).select(state).keep.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("values", "message"), [({"diverse": -0.1}, "diverse is -0.1"), ({"per_round": 0.6}, "per_round is 0.6")]
)
def test_values_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        VisPruner(**values)


def test_tiny():
    for count in (0, 1, 2, 3):
        state = LayerState(keys=torch.randn(2, count, 4), budget=1, attention=lambda count=count: torch.rand(2, count))
        for share in (0.0, 0.5, 1.0):
            assert VisPruner(share).select(state).keep.shape[1] == min(count, 1)
