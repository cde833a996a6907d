"""Orders and samples are fair and depend on names alone."""

from __future__ import annotations

import itertools

import pytest

from saintprune.data.sampling import mixed_order, spread, stratified_sample


@pytest.mark.parametrize(("total", "count"), [(2624, 656), (10, 3), (7, 7), (5, 9), (50_000, 999)])
def test_spread_is_even(total: int, count: int) -> None:
    positions = spread(total, count)
    assert len(positions) == min(total, count)
    assert len(set(positions)) == len(positions)
    assert positions == sorted(positions) and positions[0] >= 0 and positions[-1] < total
    gaps = {after - before for before, after in itertools.pairwise(positions)}
    assert max(gaps) - min(gaps) <= 1


def test_every_stratum_is_sampled_in_proportion() -> None:
    strata = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    names = [f"{index}.png" for index in range(100)]
    chosen = stratified_sample(strata, names, 20)
    assert [sum(strata[index] == stratum for index in chosen) for stratum in "abc"] == [12, 6, 2]
    shuffled = list(reversed(range(100)))
    again = stratified_sample([strata[i] for i in shuffled], [names[i] for i in shuffled], 20)
    assert {names[index] for index in chosen} == {names[shuffled[index]] for index in again}


def test_the_mixed_order_is_pinned() -> None:
    assert mixed_order(list("abcdef")) == [3, 5, 2, 1, 4, 0]
