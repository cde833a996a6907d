"""VisionZip against plain loops, and by hand."""

import pytest
import torch

from peer_states import cosine
from peer_states_vlm import alone, best_first, check_padding, groups, kept, patches, ragged
from saintprune.reduction import LayerState
from saintprune.reduction.visionzip import VisionZip


def oracle(keys, attention, budget, share):
    """{survivor: its members}."""
    contextual = round(budget * share)
    dominant = best_first(attention)[: budget - contextual]
    rest = [i for i in range(len(keys)) if i not in dominant]
    targets = [rest[j * len(rest) // contextual] for j in range(contextual)]
    found = {i: [i] for i in [*dominant, *targets]}
    for i in rest:
        if i not in targets:
            found[max(targets, key=lambda t: cosine(keys[i], keys[t]))].append(i)
    return {i: sorted(members) for i, members in found.items()}


@pytest.mark.parametrize(("budget", "share"), [(4, 0.25), (6, 0.5), (9, 0.34), (3, 1.0), (11, 0.2)])
@pytest.mark.parametrize("seed", range(3))
def test_equals_plain_loops(budget, share, seed):
    state = alone(ragged(seed=seed, budget=budget), 1)
    keys, attention, _ = patches(state)
    reduction = VisionZip(share).select(state)
    expected = oracle(keys, attention, budget, share)
    assert kept(reduction) == sorted(expected) and groups(reduction) == expected


def test_the_mean_is_that_of_the_members():
    keys = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.1, 0.9], [5.0, 5.0]]])
    state = LayerState(keys=keys, budget=3, attention=lambda: torch.tensor([[0.2, 0.1, 0.1, 0.1, 0.5]]))
    reduction = VisionZip(contextual=0.34).select(state)  # 4 and 0 dominate; 1 absorbs 2 and 3
    assert reduction.keep.tolist() == [[0, 1, 4]]
    torch.testing.assert_close(reduction.apply(keys)[0, 1], keys[0, 1:4].mean(0))
    assert reduction.apply_sizes(torch.ones(1, 5)).tolist() == [[1, 3, 1]]


def test_without_contextual_tokens_it_drops():
    state = alone(ragged(budget=3), 0)
    assert VisionZip(contextual=0.0).select(state).merge_to is None


@pytest.mark.parametrize("budget", [1, 6, 7, 10, 18])
@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_padding_changes_nothing(budget, share):
    check_padding(VisionZip(share), ragged(budget=budget))


def test_values_are_checked():
    with pytest.raises(ValueError, match="contextual is"):
        VisionZip(1.5)


def test_tiny():
    for count in (0, 1, 2, 3):
        state = LayerState(keys=torch.randn(2, count, 4), budget=2, attention=lambda count=count: torch.rand(2, count))
        assert VisionZip(0.5).select(state).keep.shape[1] == min(count, 2)
