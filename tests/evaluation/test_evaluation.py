"""Scores by hand, and a benchmark that is honest about what it ran."""

from dataclasses import replace

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from families import make
from saintprune.adapters.cascade import margins
from saintprune.adapters.timm_vit import TimmViT
from saintprune.evaluation.benchmark import Benchmark
from saintprune.evaluation.classification import score
from saintprune.evaluation.timing import BenchmarkSettings, time_in_turn
from saintprune.plan import IDENTITY, Plan
from saintprune.reduction.saint import Saint
from saintprune.reduction.tome import ToMe

SAMPLE = Plan.vision(Saint(0.3, min_neighbours=1, vote="sample"), "all")


class Data(L.LightningDataModule):
    def __init__(self, images, labels, batch_size=4):
        super().__init__()
        self.loader = DataLoader(TensorDataset(images, labels), batch_size=batch_size)

    def test_dataloader(self):
        return self.loader


def network():
    net, adapter, _ = make("vit")
    return net, adapter(net), torch.randn(10, 3, 64, 64)


def run(adapter, plan, images, labels, labelled=True, **trainer):
    return score(
        adapter, plan, Data(images, labels), 7, labelled, accelerator="cpu", enable_progress_bar=False, **trainer
    )


def test_scores_by_hand():
    net, adapter, images = network()
    baseline = net(images).argmax(1)
    with adapter.pruned(SAMPLE) as pruned_run:
        pruned = net(images).argmax(1)
        tokens = pruned_run.tokens_per_layer
    labels = baseline.clone()
    labels[:3] = (labels[:3] + 1) % 7
    found = run(adapter, SAMPLE, images, labels)
    assert found.num_samples == 10
    assert found.baseline_accuracy == pytest.approx(0.7)
    assert found.pruned_accuracy == pytest.approx((pruned == labels).float().mean().item())
    assert found.agreement == pytest.approx((pruned == baseline).float().mean().item())
    assert found.pruned_tokens == pytest.approx(tokens)
    assert found.baseline_tokens == [17.0] * 4
    low, high = found.accuracy_change_ci95
    assert low <= found.pruned_accuracy - found.baseline_accuracy + 1e-6 and high >= low


def test_identity_agrees_with_itself():
    _, adapter, images = network()
    found = run(adapter, IDENTITY, images, torch.zeros(10, dtype=torch.long))
    assert found.agreement == 1.0 and found.output_cosine == pytest.approx(1.0)
    assert found.accuracy_change_ci95 == (0.0, 0.0)


def test_without_labels_there_is_no_accuracy():
    _, adapter, images = network()
    found = run(adapter, SAMPLE, images, torch.full((10,), -1), labelled=False)
    assert found.baseline_accuracy is None and found.pruned_accuracy is None and found.agreement is not None


def test_benchmark_measures_the_untouched_network(monkeypatch):
    net, adapter, images = network()
    marks = []
    original = type(net).forward
    monkeypatch.setattr(type(net), "forward", lambda self, x: marks.append(len(self.__dict__)) or original(self, x))
    settings = BenchmarkSettings(pairs=6, max_seconds=60, warmup=1)
    shares = []
    result = Benchmark(adapter, Plan.vision(ToMe(3), "all"), [images[:4], images[4:8]], settings).run(shares.append)
    assert result.pairs == 6 and result.batch_size == 4
    assert result.baseline.tokens_per_layer == [17.0] * 4
    assert result.pruned.tokens_per_layer == [14.0, 11.0, 8.0, 5.0]
    assert result.pruned.gflops < result.baseline.gflops
    assert result.speedup_ci95[0] <= result.speedup <= result.speedup_ci95[1]
    assert 0 < result.selector_overhead < 1 and result.efficiency > 0
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert min(marks) < max(marks), "the baseline ran without, the others with what pruning sets on the network"


def test_scores_and_costs_count_both_passes_of_what_is_deferred():
    net, adapter, images = network()
    baseline = net(images).argmax(1)
    with adapter.pruned(SAMPLE):
        margin = margins(net(images)).quantile(0.35).item()
    plan = replace(SAMPLE, defer=margin)
    with adapter.pruned(plan) as pruned_run:
        pruned = net(images).argmax(1)
        deferred, tokens = pruned_run.deferred, pruned_run.tokens_per_layer
    assert deferred.sum() == 4
    found = run(adapter, plan, images, baseline)
    assert found.deferred == pytest.approx(0.4) and found.deferred_twice == 0 and found.agreement >= 0.4
    assert found.pruned_accuracy == pytest.approx((pruned == baseline).float().mean().item())
    assert found.pruned_tokens == pytest.approx(tokens)
    once = run(adapter, SAMPLE, images, baseline)
    assert once.deferred is None and found.pruned_tokens[0] == pytest.approx(once.pruned_tokens[0] + 0.4 * 17)
    batches, settings = [images[:5], images[5:]], BenchmarkSettings(pairs=5, max_seconds=1)
    measured, plain = (Benchmark(adapter, one, batches, settings).run() for one in (plan, SAMPLE))
    more = measured.pruned.gflops - plain.pruned.gflops
    assert more == pytest.approx(0.4 * measured.baseline.gflops), "a deferred image costs a whole pass more"
    assert measured.pruned.tokens_per_layer == pytest.approx(tokens)
    second = replace(SAMPLE, defer=1.0)  # unsure of everything, too
    again = run(adapter, replace(plan, second=second), images, baseline)
    assert again.deferred == again.deferred_twice == pytest.approx(0.4) and again.agreement == found.agreement
    longer = Benchmark(adapter, replace(plan, second=SAMPLE), batches, settings).run()
    assert plain.pruned.gflops < longer.pruned.gflops < measured.pruned.gflops
    assert longer.selector_seconds > plain.selector_seconds > 0 and longer.efficiency > 0


def test_benchmark_of_ragged_selections():
    _, adapter, images = network()
    result = Benchmark(adapter, SAMPLE, [images[:4]], BenchmarkSettings(pairs=5, max_seconds=60)).run()
    assert result.pruned.tokens_per_layer[0] < 17


def test_arms_take_turns():
    order = []

    def arm(name, seconds):
        def run(batch):
            order.append((name, batch))
            return seconds

        return run

    settings = BenchmarkSettings(pairs=4, max_seconds=60, warmup=1, batches=2)
    times = time_in_turn({"a": arm("a", 1.0), "b": arm("b", 2.0)}, settings)
    assert order[:2] == [("a", 0), ("b", 0)]
    assert order[2:] == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 0), ("b", 0), ("b", 1), ("a", 1)]
    assert times["a"].tolist() == [1.0] * 4 and times["b"].tolist() == [2.0] * 4


def test_time_limit_leaves_five_pairs():
    settings = BenchmarkSettings(pairs=50, max_seconds=0, warmup=0)
    assert len(time_in_turn({"a": lambda batch: 1.0}, settings)["a"]) == 5


@pytest.mark.parametrize("field", ["pairs", "batches"])
def test_settings_are_checked(field):
    with pytest.raises(ValueError, match=f"{field} is 0"):
        BenchmarkSettings(**{field: 0})


def test_the_adapter_is_for_this_network():
    net, _, _ = make("vit")
    assert TimmViT(net).net is net


def test_scores_stay_precise_in_half_precision():
    net, adapter, _ = network()
    images = torch.randn(400, 3, 64, 64)
    plan = Plan.vision(ToMe(3), "all")
    found = run(adapter, plan, images, torch.zeros(400, dtype=torch.long), precision="bf16-true")
    net.bfloat16()
    with torch.inference_mode():
        baseline = torch.cat([net(part.bfloat16()).argmax(1) for part in images.split(4)])
        with adapter.pruned(plan):
            pruned = torch.cat([net(part.bfloat16()).argmax(1) for part in images.split(4)])
    assert found.agreement == pytest.approx((baseline == pruned).double().mean().item())
    assert found.baseline_tokens == [17.0] * 4 and found.pruned_tokens == [14.0, 11.0, 8.0, 5.0]


def test_the_unpruned_network_is_asked_once_and_the_scores_are_the_same(monkeypatch):
    net, adapter, images = network()
    labels = torch.arange(10) % 7
    plans = [SAMPLE, Plan.vision(ToMe(3), "all")]
    alone = [run(adapter, plan, images, labels) for plan in plans]
    passes, original = [], type(net).forward
    monkeypatch.setattr(type(net), "forward", lambda self, x: passes.append(len(x)) or original(self, x))
    outputs = {}
    together = [run(adapter, plan, images, labels, unpruned=outputs) for plan in plans]
    assert len(passes) == 3 * 2 + 3, "two plans over three batches, and the untouched network once"
    for one, other in zip(alone, together, strict=True):
        for name in one.__dataclass_fields__.keys() - {"samples"}:
            assert getattr(one, name) == getattr(other, name), name
        for name in ("same", "baseline_right", "pruned_right"):
            assert torch.equal(getattr(one.samples, name), getattr(other.samples, name)), name
    assert not torch.equal(together[0].samples.same, together[1].samples.same), "a test of two different plans"


def test_answers_one_by_one_are_those_of_the_scores():
    net, adapter, images = network()
    labels = net(images).argmax(1)
    labels[4:] = 6 - labels[4:]
    found = run(adapter, SAMPLE, images, labels)
    assert torch.equal(found.samples.baseline_right, net(images).argmax(1) == labels)
    with adapter.pruned(SAMPLE):
        pruned = torch.cat([net(batch).argmax(1) for batch in images.split(4)])
    assert torch.equal(found.samples.pruned_right, pruned == labels)
    assert torch.equal(found.samples.same, pruned == net(images).argmax(1))
    unlabelled = run(adapter, SAMPLE, images, torch.full((10,), -1), labelled=False).samples
    assert unlabelled.pruned_right is None and torch.equal(unlabelled.same, found.samples.same)
