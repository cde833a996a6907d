"""Descriptions of curves: segments found exactly, smooth drifts, monotone curves and random walks."""

import numpy as np
import pytest

from saintprune.analysis.descriptions import monotone, smooth, standardise, walk
from saintprune.analysis.nulls import Descriptions, p_simpler, p_walk
from saintprune.analysis.resampling import Samples
from saintprune.analysis.segments import by_ruptures, by_table, segmented, shortest_segment
from saintprune.analysis.synthetic import Noise, planted


def means(curves) -> np.ndarray:
    """[M, L], standardised mean curves."""
    return standardise(Samples.of(curves, list(curves.values)).mean)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_both_searches_agree(number: int) -> None:
    rng = np.random.default_rng(number)
    for layers in (8, 13, 24):
        cost = rng.gamma(2, size=(layers + 1, layers + 1))
        shortest = shortest_segment(layers)
        assert by_table(cost, number, shortest) == by_ruptures(cost, number, shortest)


def test_segments_without_noise_are_exact() -> None:
    curves, true = planted(24, 5, slope=1.0, noise=Noise(layers=0, images=0, offsets=0))
    fit = segmented(means(curves), 3)
    assert fit.ends == (*true, 24)
    assert fit.squares.max() < 1e-9


def test_lines_are_used_where_curves_are_lines() -> None:
    level = np.repeat([0.0, 2.0, -1.0], 8)
    slope = np.concatenate([np.arange(8.0), np.zeros(8), -np.arange(8.0)])
    fit = segmented(standardise(np.stack([level, slope])), 3)
    assert fit.ends == (8, 16, 24)
    assert fit.coefficients.tolist() == [3, 5]


def test_smooth_monotone_and_walk() -> None:
    time = np.linspace(0, 1, 20)
    curves = standardise(np.stack([time, np.exp(-4 * time), np.sin(6 * time)]))
    assert smooth(curves).squares.max() < 0.1  # of 20
    assert smooth(curves).coefficients[0] == pytest.approx(2)
    steps = np.diff(monotone(curves).fitted, axis=1)
    assert all((row >= -1e-12).all() or (row <= 1e-12).all() for row in steps)
    assert monotone(curves).squares[:2].max() < 1e-9 < monotone(curves).squares[2]
    np.testing.assert_array_equal(walk(curves).fitted[:, 1:], curves[:, :-1])


def test_standardised_curves_have_no_units() -> None:
    curves = np.array([[1.0, 2, 3, 4], [5, 5, 5, 5]])
    found = standardise(curves)
    np.testing.assert_allclose(found, standardise(curves * [[7], [2]] + 3))
    np.testing.assert_allclose(found.var(1), [1, 0])


def test_gain_is_against_the_best_of_the_others() -> None:
    found = Descriptions.of(means(planted(24, 2)[0]))
    others = (found.segments[1], found.segments[2], found.smooth, found.walk)
    assert found.gain == pytest.approx(min(fit.score for fit in others) - found.segments[3].score)


def test_each_null_fits_its_own_curves() -> None:
    rng = np.random.default_rng(0)
    drift = np.sin(np.linspace(0, 5, 24)) * rng.normal(size=(4, 1)) + 0.3 * rng.normal(size=(4, 24))
    for curves in (drift, rng.normal(size=(4, 24))):
        assert p_simpler(Descriptions.of(curves), 19, rng) > 0.05
    walks = [Descriptions.of(rng.normal(size=(4, 24)).cumsum(1)) for _ in range(20)]
    assert sum(p_walk(walk, 19, rng) <= 0.05 for walk in walks) <= 3
    stages = Descriptions.of(means(planted(24, 0)[0]))
    assert p_simpler(stages, 19, rng) == p_walk(stages, 19, rng) == pytest.approx(0.05)
