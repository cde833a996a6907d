"""Targets are read strictly, met where they can be, and refused where they cannot."""

from dataclasses import replace

import pytest
import torch

from families import make
from saintprune.calibration.search import Calibrator, Knob, OutOfReach
from saintprune.calibration.targets import Measured, Target
from saintprune.errors import SaintpruneError
from saintprune.plan import IDENTITY, Plan, Schedule
from saintprune.reduction.baselines import RandomDrop
from saintprune.reduction.saint import Saint
from saintprune.reduction.tome import ToMe

SAINT = Plan.vision(Saint(min_neighbours=1), "all")
RANDOM = Plan.vision(RandomDrop(), "all", schedule=Schedule(drop=0.1))


@pytest.fixture(scope="module")
def calibrator():
    net, adapter, _ = make("vit")
    images = torch.randn(12, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return Calibrator(adapter(net), [images[:6], images[6:]])


@pytest.mark.parametrize("plan", [SAINT, RANDOM, Plan.vision(ToMe(), "all")], ids=["saint", "random", "tome"])
@pytest.mark.parametrize("kind", ["flops", "tokens"])
def test_cost_targets_are_met_by_the_least_pruning(calibrator, plan, kind):
    found = calibrator.search(plan, Target(kind, 0.7))
    assert getattr(found.measured, kind) <= 0.7
    knob = Knob.of(plan)
    step = 0.5**10
    strength = ((1 - found.value) / 2) ** 0.5 if found.knob == "method.threshold" else found.value
    weaker = calibrator.measure(knob.turned(strength - 2 * step), timed=False)
    assert getattr(weaker, kind) > 0.7, "a little less pruning misses the target"
    assert found.images == 12 and found.measured.speedup > 0


def test_agreement_is_kept_by_the_most_pruning(calibrator):
    found = calibrator.search(RANDOM, Target("agreement", 0.95))
    assert found.measured.agreement >= 0.95
    assert 0 < found.value < 1
    stronger = calibrator.measure(Knob.of(RANDOM).turned(found.value + 2 * 0.5**10), timed=False)
    assert stronger.agreement < 0.95 or stronger.flops == found.measured.flops


def test_agreement_that_the_strongest_pruning_keeps(calibrator):
    found = calibrator.search(RANDOM, Target("agreement", 0.01))
    assert found.value == 1.0 and found.measured.agreement >= 0.01


def test_agreement_of_one_is_possible(calibrator):
    assert calibrator.search(SAINT, Target("agreement", 1.0)).measured.agreement == 1.0


def test_speedup_is_timed(calibrator, monkeypatch):
    monkeypatch.setattr(Calibrator, "_speedup", lambda self, plan: 1 / self.measure(plan, timed=False).flops)
    found = calibrator.search(RANDOM, Target("speedup", 1.5), steps=8)
    assert 1.5 <= found.measured.speedup < 1.6


@pytest.mark.parametrize(("lie", "target"), [(100.0, 1.5), (1.0, 1.04)], ids=["too fast", "too slow"])
def test_a_mistimed_step_does_not_mislead(calibrator, monkeypatch, lie, target):
    timed = []

    def speedup(self, plan):
        timed.append(plan)
        # the third is the first step that divides the half where the answer lies
        return lie if len(timed) == 3 else 1 / self.measure(plan, timed=False).flops

    monkeypatch.setattr(Calibrator, "_speedup", speedup)
    found = calibrator.search(RANDOM, Target("speedup", target), steps=8)
    right = calibrator.search(RANDOM, Target("speedup", target), steps=8)  # nothing lies any more
    assert found.measured.speedup == pytest.approx(right.measured.speedup, rel=0.02)


def test_a_cascade_is_not_driven_beyond_where_it_costs_least(calibrator, monkeypatch):
    """Hard pruning defers more than it saves: here from 0.6 on, so that full strength costs more than none."""

    def measure(self, plan, timed):
        drop = plan.stages["vision"].schedule.drop
        cost = 1 - 0.9 * drop + 3 * max(0.0, drop - 0.6)
        return Measured(flops=cost, tokens=cost, agreement=1 - 0.1 * drop, speedup=1 / cost)

    monkeypatch.setattr(Calibrator, "measure", measure)
    monkeypatch.setattr(Calibrator, "_speedup", lambda self, plan: measure(self, plan, False).speedup)
    plan = replace(RANDOM, defer=0.2)
    for target in (Target("flops", 0.6), Target("speedup", 1.6)):
        found = calibrator.search(plan, target)
        assert found.plan.defer == 0.2 and found.value < 0.6
        assert target.exceeded(found.measured) or found.measured.flops == pytest.approx(0.6, abs=1e-3)
    assert 0.5 < calibrator.search(plan, Target("agreement", 0.9)).value < 0.7
    with pytest.raises(OutOfReach, match=r"drop=0\.5625 on 4 layers.*defer less than defer=0\.2 or ask for less"):
        calibrator.search(plan, Target("flops", 0.3))


@pytest.mark.parametrize("kind", ["flops", "tokens"])
def test_a_smaller_picture_is_turned_by_its_size(calibrator, kind):
    found = calibrator.search(Plan(resize=0.5), Target(kind, 0.4))
    assert found.knob == "resize" and found.stage is None and found.plan.resize == found.value
    assert round(4 * found.value) == 2, "two of four patches a side; three have more than half of the cost"
    assert getattr(found.measured, kind) <= 0.4 < getattr(calibrator.measure(Plan(resize=0.75), timed=False), kind)


def test_a_glance_is_turned_by_its_margin(calibrator):
    glance = replace(RANDOM, resize=0.5, defer=0.3)
    first = calibrator.measure(replace(glance, defer=None), timed=False)
    found = calibrator.search(glance, Target("flops", 0.7))
    assert found.knob == "defer" and found.plan == replace(glance, defer=found.value)
    assert first.flops < found.measured.flops <= 0.7
    more = calibrator.measure(replace(glance, defer=min(found.value + 0.2, 1.0)), timed=False)
    assert more.flops > 0.7 and more.agreement >= found.measured.agreement
    assert calibrator.search(glance, Target("agreement", 1.0)).measured.agreement == 1.0
    with pytest.raises(OutOfReach, match=r"defer=0\.0001, the strongest.*in the first pass.*or ask for less"):
        calibrator.search(glance, Target("flops", first.flops / 2))


def test_out_of_reach_says_how_far_it_got(calibrator):
    with pytest.raises(
        SaintpruneError, match=r"flops:0.01 is out of reach.*on 2 layers, the strongest.*gets to FLOPs 0\.\d+"
    ):
        calibrator.search(Plan.vision(Saint()), Target("flops", 0.01))


def test_features_cannot_agree(calibrator):
    features = Calibrator(calibrator.adapter, calibrator.batches, classifies=False)
    assert features.measure(SAINT, timed=False).agreement is None
    with pytest.raises(SaintpruneError, match="gives features"):
        features.search(SAINT, Target("agreement", 0.9))


def test_what_has_no_knob_is_refused(calibrator):
    with pytest.raises(SaintpruneError, match="KeepAll prunes nothing"):
        Knob.of(IDENTITY)
    with pytest.raises(SaintpruneError, match="0 stages, not one"):
        Knob.of(Plan())


def test_a_schedule_takes_precedence_over_a_threshold():
    plan = Plan.vision(Saint(), schedule=Schedule(drop=0.2))
    assert Knob.of(plan).name == "schedule.drop" and Knob.of(SAINT).name == "method.threshold"


def test_a_schedule_keeps_its_shape():
    plan = Plan.vision(RandomDrop(), schedule=Schedule(drop=0.2, steepness=2.0))
    assert Knob.of(plan).turned(0.75).stages["vision"].schedule == Schedule(drop=0.75, steepness=2.0)


@pytest.mark.parametrize("text", ["speedup:2.0", "flops:0.5", "tokens:0.25", "agreement:0.98", "agreement:1"])
def test_targets_are_read(text):
    target = Target.parse(text)
    assert target.kind == text.split(":")[0] and target.value == float(text.split(":")[1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speedup:0.5", "impossible: speedup takes a factor above 1"),
        ("flops:1.5", "between 0 and 1"),
        ("tokens:0", "between 0 and 1"),
        ("agreement:1.2", "impossible"),
        ("flops:half", "impossible"),
        ("flop:0.5", "did you mean 'flops'"),
        ("2x", "give one of"),
    ],
)
def test_impossible_targets_are_refused(text, message):
    with pytest.raises(SaintpruneError, match=message):
        Target.parse(text)


def test_exceeded():
    measured = Measured(flops=0.5, tokens=0.6, agreement=0.9, speedup=1.8)
    far = ["flops:0.5", "tokens:0.7", "agreement:0.95", "speedup:1.7"]
    not_far = ["flops:0.4", "tokens:0.5", "agreement:0.9", "speedup:1.9"]
    assert all(Target.parse(text).exceeded(measured) for text in far)
    assert not any(Target.parse(text).exceeded(measured) for text in not_far)
