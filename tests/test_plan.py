"""Plans, stages and schedules."""

import pytest

from saintprune.errors import SaintpruneError
from saintprune.plan import Plan, Schedule, Stage
from saintprune.reduction.baselines import RandomDrop
from saintprune.reduction.saint import Saint


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("all", (0, 1, 2, 3, 4)),
        ("first_half", (0, 1)),
        ("1:3", (1, 2)),
        ("-2:", (3, 4)),
        (":2", (0, 1)),
        ([3, 1, 3], (1, 3)),
        ([0.25, 0.5, 0.75], (1, 2, 3)),
        ([0.99, 0, 0.2], (0, 1, 4)),
        ([0.99, 0], (0, 4)),
        ("0.5:", (2, 3, 4)),
        (".4:0.8", (2, 3)),
        ("0.2:-1", (1, 2, 3)),
        ("::2", (0, 2, 4)),
        ("1::3", (1, 4)),
        (":0.8:2", (0, 2)),
    ],
)
def test_layers(layers, expected):
    assert Stage("vision", layers, Saint()).resolve(5) == expected


def test_layers_as_shares_of_the_depth():
    """floor(f * depth), also where the product of floats falls just short: 0.29 * 100 is 28.999999999999996."""
    shares = Stage("vision", [0.25, 0.5, 0.75], Saint())
    assert [shares.resolve(depth) for depth in (12, 24, 32)] == [(3, 6, 9), (6, 12, 18), (8, 16, 24)]
    assert Stage("vision", [0.29], Saint()).resolve(100) == (29,)


@pytest.mark.parametrize(
    ("layers", "message"),
    [([5], "0..4"), ("2:7", "5 blocks"), ("3:3", "none of 5 blocks"), ([], "none of 5 blocks")],
)
def test_layers_that_are_not_there(layers, message):
    with pytest.raises(SaintpruneError, match=message):
        Stage("vision", layers, Saint()).resolve(5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": ["3"]}, "layers has '3', but a list holds numbers"),
        ({"layers": [True]}, "layers has True"),
        ({"schedule": {"drop": 0.5}}, r"schedule is \{'drop': 0.5\}, but must be a schedule"),
        ({"schedule": 0.5}, "schedule is 0.5"),
    ],
)
def test_values_of_another_kind_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Stage(**{"site": "vision", "layers": "all", "method": Saint(), **values})


def test_schedule_drops_evenly():
    schedule = Schedule(drop=0.6)
    assert [schedule.budget(step, 3, 100) for step in range(3)] == [80, 60, 40]
    assert Schedule(drop=1.0).budget(2, 3, 100) == 1, "one patch is left"


def test_schedule_falls_along_an_s():
    schedule = Schedule(drop=0.8, steepness=2.0)
    assert [schedule.budget(step, 4, 100) for step in range(4)] == [80, 50, 31, 20]  # 1 / (1 + 4 t²)
    steep = Schedule(drop=0.8, steepness=8.0)
    assert [steep.budget(step, 4, 100) for step in range(2)] == [100, 98]
    assert Schedule(drop=0.9, steepness=2.0).budget(0, 1, 100) == 10, "a single layer leaves what is asked for"


@pytest.mark.parametrize(("drop", "left"), [(0.0, [100, 100]), (1.0, [1, 1])])
def test_ends_of_an_s(drop, left):
    assert [Schedule(drop=drop, steepness=2.0).budget(step, 2, 100) for step in range(2)] == left


def test_schedule_keeps_shares_or_numbers():
    schedule = Schedule(keep=[0.5, 7])
    assert [schedule.budget(step, 2, 100) for step in range(2)] == [50, 7]


def test_steps_know_their_budget():
    plan = Plan.vision(RandomDrop(), [0, 2], schedule=Schedule(drop=0.5))
    assert {layer: step.budget(16) for layer, step in plan.at("vision", 4).items()} == {0: 12, 2: 8}
    assert Plan.vision(Saint(), [1]).at("vision", 4)[1].budget(16) is None
    assert plan.at("language", 4) == {}


@pytest.mark.parametrize(
    ("layers", "left"),
    [
        ("all", (0, 1, 2)),
        ("1:", (1, 2)),
        ("-2:", (2,)),
        ("3:", "3:"),
        ("1:4", "1:4"),
        ((0, 3), (0, 3)),
        ("::2", (0, 2)),
        ("1:4:2", "1:4:2"),
    ],
)
def test_open_ends_close_at_the_last_block_that_is_read(layers, left):
    plan = Plan.vision(Saint(), layers)
    assert plan.up_to(2, "vision", 4).stages["vision"].layers == left
    assert plan.up_to(2, "language", 4) == plan


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Schedule(), "exactly one"),
        (lambda: Schedule(drop=0.1, keep=(3,)), "exactly one"),
        (lambda: Schedule(drop=1.2), "drop is 1.2"),
        (lambda: Schedule(drop=0.5, steepness=0.0), "steepness is 0.0"),
        (lambda: Schedule(keep=(3,), steepness=2.0), "steepness is 2.0"),
        (lambda: Schedule(keep=(0.5, 1.5)), "keep has 1.5"),
        (lambda: Schedule(keep=(-1,)), "keep has -1"),
        (lambda: Stage("tower", "all", Saint()), "site is 'tower'"),
        (lambda: Stage("vision", "last_half", Saint()), "layers is 'last_half'"),
        (lambda: Stage("vision", "::0", Saint()), "layers is '::0'"),
        (lambda: Stage("vision", [0.5, 1.0], Saint()), "layers has 1.0, but floats are shares of the depth"),
        (lambda: Stage("vision", [0.0], Saint()), "layers has 0.0"),
        (lambda: Stage("vision", "all", RandomDrop()), "schedule.drop=0.5"),
    ],
)
def test_values_are_checked(build, message):
    with pytest.raises(ValueError, match=message):
        build()
