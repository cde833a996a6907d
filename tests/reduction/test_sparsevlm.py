"""SparseVLM against plain loops, density peaks included."""

import math

import pytest
import torch

from peer_states_vlm import alone, best_first, check_padding, groups, kept, ragged
from saintprune.reduction import LayerState
from saintprune.reduction.sparsevlm import SparseVLM


def scores_of(state):
    """The raters' mean attention to each patch of a state of one sample."""
    rows, present = state.text_attention()
    rows = [row[state.prefix :] for row, there in zip(rows[0].tolist(), present[0].tolist(), strict=True) if there]
    given = [sum(row) for row in rows]
    raters = [row for row, total in zip(rows, given, strict=True) if total >= sum(given) / len(given) - 1e-9]
    return [sum(column) / len(raters) for column in zip(*raters, strict=True)]


def peaks(points, count, neighbours):
    """{centre: members} of points by density times separation."""
    n = len(points)
    d = [[math.dist(a, b) / math.sqrt(len(a)) for b in points] for a in points]
    density = []
    for i in range(n):
        near = sorted(d[i][j] ** 2 for j in range(n) if j != i)[:neighbours]
        density.append(math.exp(-sum(near) / len(near)) if near else 1.0)
    separation = []
    for i in range(n):
        denser = [d[i][j] for j in range(n) if (density[j], -j) > (density[i], -i)]
        separation.append(min(denser) if denser else max(d[i]))
    centres = best_first([a * b for a, b in zip(density, separation, strict=True)])[:count]
    found = {c: [c] for c in centres}
    for i in range(n):
        if i not in centres:
            found[min(centres, key=lambda c: d[i][c])].append(i)
    return found


def oracle(state, recycle, per_cluster, neighbours):
    """{survivor: members}."""
    scores, budget = scores_of(state), state.budget
    recycled = round(recycle * (len(scores) - budget))
    clusters = min(math.ceil(recycled / per_cluster), budget - 1)
    order = best_first(scores)
    found = {i: [i] for i in order[: budget - clusters]}
    if clusters:
        pool = order[budget - clusters : budget + recycled]
        tokens = state.tokens[0, state.prefix :].tolist()
        for centre, members in peaks([tokens[i] for i in pool], clusters, neighbours).items():
            found[pool[centre]] = sorted(pool[m] for m in members)
    return found


@pytest.mark.parametrize("budget", [1, 2, 5, 9])
@pytest.mark.parametrize(
    ("recycle", "per_cluster", "neighbours"), [(0.3, 2, 5), (1.0, 3, 2), (0.6, 1, 1), (1.0, 9, 50)]
)
@pytest.mark.parametrize("seed", range(3))
def test_equals_plain_loops(budget, recycle, per_cluster, neighbours, seed):
    state = alone(ragged(seed=seed, budget=budget), 0)
    reduction = SparseVLM(recycle, per_cluster, neighbours).select(state)
    expected = oracle(state, recycle, per_cluster, neighbours)
    assert kept(reduction) == sorted(expected)
    if reduction.merge_to is not None:
        assert groups(reduction) == expected


def test_without_recycling_it_ranks():
    state = alone(ragged(budget=6), 0)
    reduction = SparseVLM(recycle=0.0).select(state)
    assert reduction.merge_to is None and kept(reduction) == sorted(best_first(scores_of(state))[:6])


def test_only_tokens_above_the_average_rate():
    rows = torch.tensor([[[0.5, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.3], [0.0, 0.9, 0.0]]])
    present = torch.tensor([[True, True, True, False]])  # totals 0.5, 0.1, 0.3 and one that is not there
    state = LayerState(keys=torch.zeros(1, 3, 1), budget=2, text_rows=lambda: (rows, present))
    assert SparseVLM(recycle=0.0).select(state).keep.tolist() == [[0, 2]]


def test_without_text_behind_the_image_the_first_stay():
    state = LayerState(
        keys=torch.zeros(1, 4, 1),
        budget=2,
        text_rows=lambda: (torch.zeros(1, 0, 4), torch.ones(1, 0, dtype=torch.bool)),
    )
    assert SparseVLM(recycle=0.0).select(state).keep.tolist() == [[0, 1]]


@pytest.mark.parametrize("budget", [1, 4, 6, 10, 18])
@pytest.mark.parametrize("knobs", [(0.0, 2, 5), (0.5, 2, 3), (1.0, 1, 1), (1.0, 4, 5)])
def test_padding_changes_nothing(budget, knobs):
    check_padding(SparseVLM(*knobs), ragged(budget=budget))


def test_sites_without_text_say_so():
    with pytest.raises(ValueError, match="use site=language"):
        SparseVLM().select(LayerState(keys=torch.randn(1, 4, 2), budget=2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"recycle": 2.0}, "recycle is 2.0"),
        ({"per_cluster": 0}, "per_cluster is 0"),
        ({"neighbours": 0}, "neighbours 0"),
    ],
)
def test_values_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        SparseVLM(**values)
