"""DART against plain loops."""

import pytest
import torch

from peer_states import cosine
from peer_states_vlm import alone, best_first, check_padding, kept, patches, ragged
from saintprune.reduction import LayerState
from saintprune.reduction.dart import Dart


def oracle(keys, budget, pivots):
    """Pivots by norm, then those whose largest cosine to a pivot is smallest."""
    chosen = best_first([sum(x * x for x in key) for key in keys])[: min(pivots, budget)]
    rest = [i for i in range(len(keys)) if i not in chosen]
    rest.sort(key=lambda i: (max(cosine(keys[i], keys[p]) for p in chosen), i))
    return sorted([*chosen, *rest[: budget - len(chosen)]])


@pytest.mark.parametrize("budget", [1, 3, 8, 12])
@pytest.mark.parametrize("pivots", [1, 2, 4, 20])
def test_equals_plain_loops(budget, pivots):
    for seed in range(3):
        state = alone(ragged(seed=seed, budget=budget), 0)
        assert kept(Dart(pivots).select(state)) == oracle(patches(state)[0], budget, pivots)


@pytest.mark.parametrize("budget", [1, 6, 10, 18])
@pytest.mark.parametrize("pivots", [1, 4, 9])
def test_padding_changes_nothing(budget, pivots):
    check_padding(Dart(pivots), ragged(budget=budget))


def test_values_are_checked():
    with pytest.raises(ValueError, match="pivots is 0"):
        Dart(0)


def test_tiny():
    for count in (0, 1, 2, 3):
        assert Dart().select(LayerState(keys=torch.randn(2, count, 4), budget=1)).keep.shape[1] == min(count, 1)
