"""DivPrune against plain loops."""

import pytest
import torch

from peer_states import cosine
from peer_states_vlm import alone, check_padding, kept, patches, ragged
from saintprune.reduction import LayerState
from saintprune.reduction.divprune import DivPrune


def oracle(keys, count):
    """Farthest-first by 1 − cosine."""
    n = len(keys)
    distance = [[1 - cosine(a, b) for b in keys] for a in keys]
    nearest = [min(distance[i][j] for j in range(n) if j != i) for i in range(n)]
    chosen = [nearest.index(max(nearest))]
    while len(chosen) < count:
        rest = [i for i in range(n) if i not in chosen]
        chosen.append(max(rest, key=lambda i: min(distance[i][j] for j in chosen)))
    return sorted(chosen)


@pytest.mark.parametrize("budget", [1, 2, 5, 11])
@pytest.mark.parametrize("seed", range(4))
def test_equals_plain_loops(budget, seed):
    state = alone(ragged(seed=seed, budget=budget), 1)
    assert kept(DivPrune().select(state)) == oracle(patches(state)[0], budget)


@pytest.mark.parametrize("budget", [1, 6, 10, 18])
def test_padding_changes_nothing(budget):
    check_padding(DivPrune(), ragged(budget=budget))


def test_duplicates_go_first():
    keys = torch.tensor([[[1.0, 0.0], [1.0, 0.01], [0.0, 1.0], [0.01, 1.0], [-1.0, 0.0]]])
    assert DivPrune().select(LayerState(keys=keys, budget=3)).keep.tolist() == [[0, 2, 4]]


def test_tiny():
    for patch_count in (0, 1, 2):
        keys = torch.randn(2, patch_count + 1, 4)
        assert DivPrune().select(LayerState(keys=keys, prefix=1, budget=1)).keep.shape[1] == min(patch_count, 1) + 1


def test_needs_a_schedule():
    with pytest.raises(ValueError, match="DivPrune ranks tokens"):
        DivPrune().select(LayerState(keys=torch.randn(1, 4, 2)))
