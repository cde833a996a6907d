"""SAINT beyond the golden cases: an oracle in plain Python, odd inputs, votes, budgets and padding."""

import math

import pytest
import torch

from saintprune.reduction import LayerState
from saintprune.reduction.saint import Saint
from saintprune.reduction.saint_budget import SaintBudget


def keys(batch, tokens, width=6, seed=0):
    return torch.randn(batch, tokens, width, generator=torch.Generator().manual_seed(seed))


def votes_and_scores(rows, saint):
    """The rule, token by token, for one sample's patches."""
    unit = [[value / (math.hypot(*row) or 1.0) for value in row] for row in rows]
    votes, scores = 0, {}
    for place in range(0, len(unit), 2):
        similar = [sum(a * b for a, b in zip(unit[place], other, strict=True)) for other in unit[1::2]]
        near = [value for value in similar if value >= saint.threshold]
        votes += len(near) >= saint.min_neighbours
        mean = sum(near) / len(near) if near else sum(similar) / len(similar)
        scores[place] = len(near) * math.exp(saint.gamma * (mean - saint.threshold)) if near else mean
    return votes, scores


def oracle(state, saint):
    """Survivors of each sample as sets."""
    found = [votes_and_scores(sample.tolist(), saint) for sample in state.keys[:, state.prefix :].double()]
    shared = sum(votes for votes, _ in found) // len(found)
    kept = []
    for votes, scores in found:
        drops = shared if saint.vote == "batch" else votes
        dropped = sorted(scores, key=lambda place: -scores[place])[:drops]
        kept.append(set(range(state.keys.shape[1])) - {place + state.prefix for place in dropped})
    return kept


def survivors(reduction):
    valid = torch.ones_like(reduction.keep, dtype=torch.bool) if reduction.valid is None else reduction.valid
    return [set(row[mask].tolist()) for row, mask in zip(reduction.keep, valid, strict=True)]


@pytest.mark.parametrize("vote", ["batch", "sample"])
@pytest.mark.parametrize("order", ["position", "reference"])
@pytest.mark.parametrize("tokens,prefix", [(16, 0), (33, 1), (34, 2), (38, 5)])
def test_against_the_rule_token_by_token(vote, order, tokens, prefix):
    saint = Saint(threshold=0.2, min_neighbours=3, gamma=2.0, vote=vote, order=order)
    state = LayerState(keys=keys(4, tokens), prefix=prefix)
    expected = oracle(state, saint)
    assert (len({len(kept) for kept in expected}) > 1) == (vote == "sample"), "the case must be ragged"
    assert survivors(saint.select(state)) == expected


@pytest.mark.parametrize("order", ["position", "reference"])
def test_sample_vote_does_not_depend_on_the_batch(order):
    saint = Saint(threshold=0.2, min_neighbours=3, vote="sample", order=order)
    together = saint.select(LayerState(keys=keys(5, 40), prefix=1))
    for row in range(5):
        alone = saint.select(LayerState(keys=keys(5, 40)[row : row + 1], prefix=1)).keep[0]
        assert torch.equal(together.keep[row, : len(alone)], alone)
        assert together.valid[row].sum() == len(alone)


def test_a_sample_without_a_vote_keeps_its_order():
    """Alone it would not be touched; the released program's order must not reach it through its batch."""
    state = torch.stack([torch.ones(17, 6), torch.zeros(17, 6)])
    reduction = Saint(vote="sample", order="reference").select(LayerState(keys=state, prefix=1))
    assert reduction.keep[1].tolist() == list(range(17))
    assert reduction.valid.sum(1).tolist() == [9, 17]


@pytest.mark.parametrize("vote", ["batch", "sample"])
def test_padding_is_as_if_absent(vote):
    saint = Saint(threshold=0.2, min_neighbours=3, vote=vote)
    full, lengths = keys(1, 40), [40, 31, 20]
    padded = torch.randn(3, 40, 6)
    valid = torch.arange(40) < torch.tensor(lengths)[:, None]
    for row, length in enumerate(lengths):
        padded[row, :length] = full[0, :length]
    found = survivors(saint.select(LayerState(keys=padded, prefix=1, valid=valid)))
    for row, length in enumerate(lengths):
        assert all(token < length for token in found[row])
        if vote == "sample":
            assert found[row] == survivors(saint.select(LayerState(keys=full[:, :length], prefix=1)))[0]


@pytest.mark.parametrize(
    "state",
    [
        LayerState(keys=torch.zeros(2, 17, 6), prefix=1),
        LayerState(keys=torch.ones(2, 1, 6)),
        LayerState(keys=torch.ones(2, 2, 6), prefix=1),
        LayerState(keys=torch.ones(2, 1, 6), prefix=1),
        LayerState(keys=keys(2, 4), prefix=0),
    ],
    ids=["zero keys", "one token", "one patch", "only special", "fewer than min_neighbours"],
)
def test_nothing_to_prune(state):
    reduction = Saint().select(state)
    assert torch.equal(reduction.keep, torch.arange(state.keys.shape[1]).expand(2, -1))


@pytest.mark.parametrize("patches", [16, 17])
def test_identical_tokens_lose_half_at_most(patches):
    reduction = Saint().select(LayerState(keys=torch.ones(1, patches + 1, 6), prefix=1))
    assert reduction.keep.shape[1] == 1 + patches // 2


def test_a_connected_source_outranks_an_isolated_one():
    """One weak edge (degree 1) is more redundant than a high mean without an edge."""
    state = keys(1, 21, seed=3)
    saint = Saint(threshold=0.85, min_neighbours=1, gamma=0.0)
    votes, scores = votes_and_scores(state[0].tolist(), saint)
    assert 0 < votes < len(scores)
    kept = survivors(saint.select(LayerState(keys=state)))[0]
    assert kept == oracle(LayerState(keys=state), saint)[0]


@pytest.mark.parametrize("saint", [Saint(), Saint(vote="sample"), Saint(order="reference")])
@pytest.mark.parametrize("budget,left", [(40, 40), (30, 30), (20, 20), (5, 20)])
def test_a_budget_replaces_the_vote(saint, budget, left):
    reduction = saint.select(LayerState(keys=keys(3, 41), prefix=1, budget=budget))
    assert reduction.keep.shape == (3, left + 1) and reduction.valid is None


def test_a_budget_with_padding():
    valid = torch.arange(41) < torch.tensor([41, 31, 11])[:, None]
    reduction = Saint().select(LayerState(keys=keys(3, 41), prefix=1, budget=25, valid=valid))
    assert [len(kept) for kept in survivors(reduction)] == [26, 26, 11]


def thinned(sample, target, divisor):
    """The budget rule, token by token, for one sample's patches."""
    unit = torch.nn.functional.normalize(sample.double(), dim=-1)
    alive = list(range(len(unit)))
    while len(alive) > target:
        similarity = {i: sum(float(unit[i] @ unit[j]) for j in alive) for i in alive}
        step = max(1, min(len(alive) - target, len(alive) // divisor))
        for token in sorted(alive, key=lambda i: -similarity[i])[:step]:
            alive.remove(token)
    return set(alive)


@pytest.mark.parametrize("divisor", [1, 4, 1000])
def test_budget_rule_against_token_by_token(divisor):
    state = LayerState(keys=keys(3, 31), prefix=1)
    found = survivors(SaintBudget(keep=12, divisor=divisor).select(state))
    for row in range(3):
        assert found[row] == {0} | {token + 1 for token in thinned(state.keys[row, 1:], 11, divisor)}


def test_budget_rule_ignores_padding():
    full, valid = keys(2, 31), torch.arange(31) < torch.tensor([31, 20])[:, None]
    found = survivors(SaintBudget(keep=12, divisor=4).select(LayerState(keys=full, prefix=1, valid=valid)))
    for row, length in enumerate([31, 20]):
        assert len(found[row]) == 12 and max(found[row]) < length


def test_budget_rule_takes_shares():
    assert SaintBudget(keep=0.5).select(LayerState(keys=keys(1, 41), prefix=1)).keep.shape[1] == 20
    assert SaintBudget(keep=100).select(LayerState(keys=keys(1, 41), prefix=1)).keep.shape[1] == 41


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Saint(threshold=1.5), "threshold is 1.5"),
        (lambda: Saint(min_neighbours=0), "min_neighbours is 0"),
        (lambda: Saint(gamma=-1), "gamma is -1"),
        (lambda: Saint(vote="each"), "vote is 'each'"),
        (lambda: Saint(order="random"), "order is 'random'"),
        (lambda: SaintBudget(keep=0), "keep is 0"),
        (lambda: SaintBudget(keep=1.5), "keep is 1.5"),
        (lambda: SaintBudget(divisor=0), "divisor is 0"),
    ],
)
def test_values_are_checked(build, message):
    with pytest.raises(ValueError, match=message):
        build()
