"""CDPruner against determinants taken anew at each step."""

import math

import pytest
import torch

from peer_states import cosine
from peer_states_vlm import alone, check_padding, kept, patches, ragged
from saintprune.reduction import LayerState
from saintprune.reduction.cdpruner import CDPruner


def determinant(rows):
    """By Gaussian elimination with pivoting."""
    rows, value = [list(row) for row in rows], 1.0
    for i in range(len(rows)):
        pivot = max(range(i, len(rows)), key=lambda r: abs(rows[r][i]))
        if rows[pivot][i] == 0:
            return 0.0
        if pivot != i:
            rows[i], rows[pivot], value = rows[pivot], rows[i], -value
        value *= rows[i][i]
        for r in range(i + 1, len(rows)):
            factor = rows[r][i] / rows[i][i]
            rows[r] = [a - factor * b for a, b in zip(rows[r], rows[i], strict=True)]
    return value


def oracle(keys, relevance, count):
    """Add the patch that makes the determinant of the chosen kernel largest."""
    low, high = min(relevance), max(relevance)
    q = [(r - low) / (high - low) for r in relevance]
    kernel = [[q[i] * cosine(a, b) * q[j] for j, b in enumerate(keys)] for i, a in enumerate(keys)]
    chosen = []
    while len(chosen) < count:
        rest = [i for i in range(len(keys)) if i not in chosen]
        chosen.append(
            max(rest, key=lambda i: determinant([[kernel[a][b] for b in [*chosen, i]] for a in [*chosen, i]]))
        )
    return sorted(chosen)


@pytest.mark.parametrize("budget", [1, 2, 4, 5])
@pytest.mark.parametrize("seed", range(4))
def test_equals_determinants(budget, seed):
    state = alone(ragged(seed=seed, budget=budget), 1)
    keys, _, relevance = patches(state)
    assert kept(CDPruner().select(state)) == oracle(keys, relevance, budget)


def test_beyond_the_rank_the_most_relevant_follow():
    keys = torch.eye(2).repeat(3, 1)[None]  # rank 2
    relevance = torch.tensor([[0.9, 0.8, 0.2, 0.7, 0.0, 0.1]])
    found = CDPruner().select(LayerState(keys=keys, budget=3, relevances=lambda: relevance))
    assert found.keep.tolist() == [[0, 1, 3]]
    found = CDPruner().select(LayerState(keys=keys, budget=5, relevances=lambda: relevance))
    assert found.keep.tolist() == [[0, 1, 2, 3, 5]]


def test_equal_relevance_leaves_diversity_alone():
    keys = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]])
    found = CDPruner().select(LayerState(keys=keys, budget=2, relevances=lambda: torch.full((1, 3), 0.3)))
    assert found.keep.tolist() == [[0, 2]]


@pytest.mark.parametrize("budget", [1, 6, 10, 18])
def test_padding_changes_nothing(budget):
    check_padding(CDPruner(), ragged(budget=budget))


def test_a_big_kernel_stays_finite():
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(2, 300, 16, generator=generator) + 2
    relevance = torch.rand(2, 300, generator=generator)
    keep = CDPruner().select(LayerState(keys=keys, budget=150, relevances=lambda: relevance)).keep
    assert all(len(set(row)) == 150 for row in keep.tolist())


def test_a_site_without_prompts_says_so():
    with pytest.raises(ValueError, match="use site=projector"):
        CDPruner().select(LayerState(keys=torch.randn(1, 4, 2), budget=2))


def test_tiny():
    for count in (0, 1, 2):
        state = LayerState(keys=torch.randn(2, count, 4), budget=1, relevances=lambda count=count: torch.rand(2, count))
        assert CDPruner().select(state).keep.shape[1] == min(count, 1)
    assert math.isclose(determinant([[2.0, 1.0], [1.0, 3.0]]), 5.0)
