"""FLOPs against hand counts, intervals against known answers, memory against a known allocation."""

import pytest
import timm
import torch

from saintprune.adapters.timm_vit import TimmViT
from saintprune.evaluation.timing import summed_up
from saintprune.metrics import intervals
from saintprune.metrics.flops import count_flops, flops_of
from saintprune.metrics.intervals import bootstrap, harmonic_mean, interval_of_mean, mean, median
from saintprune.metrics.memory import peak_memory
from saintprune.plan import Plan, Schedule
from saintprune.reduction.baselines import RandomDrop


def vit_flops(tokens, width, depth, classes, patch=16, channels=3):
    """2 per multiply-add: patches, then per block qkv + projection + MLP (12 D² per token) and attention (2 N² D)."""
    blocks = sum(2 * (8 * after * width**2 + 4 * before * width**2 + 2 * before**2 * width) for before, after in depth)
    return 2 * (tokens - 1) * width * channels * patch**2 + blocks + 2 * width * classes


def test_flops_of_a_vit_by_hand():
    net = timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=48, num_heads=4, num_classes=7, img_size=64)
    images = torch.randn(2, 3, 64, 64)
    flops, output = count_flops(net.eval(), images)
    assert flops == vit_flops(17, 48, [(17, 17)] * 2, 7)
    assert torch.equal(output, net(images).detach())


def test_flops_of_a_pruned_vit_by_hand():
    net = timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=48, num_heads=4, num_classes=7, img_size=64)
    with TimmViT(net.eval()).pruned(Plan.vision(RandomDrop(), [0], schedule=Schedule(keep=(4,)))):
        flops, _ = count_flops(net, torch.randn(2, 3, 64, 64))
    assert flops == vit_flops(17, 48, [(17, 5), (5, 5)], 7)


def test_flops_of_attention_in_groups_by_hand():
    """6 heads share the keys of 2; each head: 2 N M D for the scores, 2 N M V for the sum of values."""
    query, key, value = torch.randn(3, 6, 5, 8), torch.randn(3, 2, 7, 8), torch.randn(3, 2, 7, 8)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert flops_of(lambda: attend(query, key, value, enable_gqa=True))[0] == 3 * 6 * 2 * 5 * 7 * (8 + 8)


def test_bootstrap_of_a_mean():
    values = torch.randn(400, generator=torch.Generator().manual_seed(1))
    low, high = bootstrap(values, mean)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std().item() / 20, rel=0.1)
    assert bootstrap(values, mean) == (low, high), "seeded"


@pytest.mark.parametrize("statistic", [mean, median, harmonic_mean])
@pytest.mark.parametrize(("size", "at_once"), [(1, 1), (7, 50), (333, 1000), (333, 10**6), (5001, 10**5)])
def test_resamples_are_those_of_one_draw_however_many_are_in_memory(size, at_once, statistic, monkeypatch):
    values = torch.rand(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    index = torch.randint(size, (200, size), generator=torch.Generator().manual_seed(0))
    tail = (1 - 0.95) / 2
    wanted = torch.quantile(statistic(values[index]), torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    drawn = []

    def noted(resamples):
        drawn.append(resamples.numel())
        return statistic(resamples)

    monkeypatch.setattr(intervals, "AT_ONCE", at_once)
    assert list(bootstrap(values, noted, draws=200)) == wanted
    assert max(drawn) <= at_once and sum(drawn) == 200 * size


def test_samples_of_a_group_are_drawn_together():
    one = torch.randn(100, generator=torch.Generator().manual_seed(1))
    groups = torch.arange(100)
    assert interval_of_mean(one) == bootstrap(one, mean)
    assert interval_of_mean(one, groups) == pytest.approx(bootstrap(one, mean)), "each by itself"
    same = interval_of_mean(one.repeat(4), groups.repeat(4))
    assert same == pytest.approx(bootstrap(one, mean)), "four times the same is not four times as much"
    assert interval_of_mean(torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([7, 3, 3, 3])) == (0.0, 1.0)


def test_bootstrap_of_a_constant():
    assert bootstrap(torch.full((9,), 2.5), median) == (2.5, 2.5)


def test_the_harmonic_mean_of_speed_ups_is_that_of_the_whole_time():
    unpruned, pruned = torch.full((4,), 2.0), torch.tensor([0.5, 1.0, 1.0, 1.5])
    assert harmonic_mean(unpruned / pruned).item() == pytest.approx(8 / 4)
    assert summed_up(Plan())(unpruned / pruned) == 2.0 and summed_up(Plan(defer=0.5)) is harmonic_mean


def test_median():
    assert median(torch.tensor([4.0, 1.0, 3.0, 2.0])).item() == 2.5


def test_peak_memory_by_hand():
    mib = 2**20 // 4  # floats
    given = torch.ones(8 * mib)

    def work():
        a = given + 1  # 8
        b = a[: 4 * mib] * 2  # 8 + 4
        del a
        c = b.view(-1, 2).sum(1)  # 4 + 2
        return torch.cat([b, c]).add_(given[: 6 * mib])  # 4 + 2 + 6, in place

    assert peak_memory(work, torch.device("cpu")) == 12.0
    assert peak_memory(work, torch.device("cpu")) == 12.0


def test_pruning_needs_no_more_memory():
    net = timm.create_model("vit_tiny_patch16_224", depth=4, embed_dim=48, num_heads=4, img_size=128).eval()
    images = torch.randn(4, 3, 128, 128)

    def peak():
        with torch.inference_mode():
            return peak_memory(lambda: net(images), torch.device("cpu"))

    unpruned = peak()
    with TimmViT(net).pruned(Plan.vision(RandomDrop(), "all", schedule=Schedule(drop=0.8))):
        assert peak() < unpruned
