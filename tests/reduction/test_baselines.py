"""The baselines by hand-computed cases."""

import pytest
import torch

from saintprune.reduction import LayerState, Reduction
from saintprune.reduction.baselines import KeepAll, RandomDrop, Replay, Stride, TopKAttention
from saintprune.reduction.pool import Pool
from saintprune.reduction.rows import _product, summed
from saintprune.reduction.tome import ToMe


def state(patches=12, prefix=1, batch=2, **more):
    return LayerState(keys=torch.randn(batch, patches + prefix, 4), prefix=prefix, **more)


def test_keep_all():
    assert torch.equal(KeepAll().select(state()).keep, torch.arange(13).expand(2, -1))


def test_stride_is_even():
    assert Stride().select(state(budget=4)).keep[0].tolist() == [0, 2, 5, 8, 11]
    assert Stride().select(state(budget=6)).keep[0].tolist() == [0, *range(2, 13, 2)]
    assert Stride().select(state(patches=5, budget=3)).keep[0].tolist() == [0, 1, 3, 5]


def test_stride_with_padding_spreads_over_what_is_there():
    valid = torch.arange(13) < torch.tensor([13, 7])[:, None]
    reduction = Stride().select(state(budget=3, valid=valid))
    assert reduction.keep.tolist() == [[0, 3, 7, 11], [0, 2, 4, 6]]


def test_random_is_reproducible_uniform_and_the_same_for_all_samples():
    first, again = (RandomDrop(seed=1).select(state(budget=5)).keep for _ in range(2))
    assert torch.equal(first, again) and torch.equal(first[0], first[1])
    counts = torch.zeros(13)
    for seed in range(600):
        counts[RandomDrop(seed=seed).select(state(batch=1, budget=3)).keep[0]] += 1
    assert counts[0] == 600 and (counts[1:] - 150).abs().max() < 50  # 4.7 standard deviations of 12 binomials


def test_top_k_keeps_the_largest_attention():
    attention = torch.tensor([[0.9, 0.1, 0.5, 0.2, 0.5], [0.9, 0.4, 0.3, 0.2, 0.1]])
    reduction = TopKAttention().select(state(patches=4, budget=2, attention=lambda: attention))
    assert reduction.keep.tolist() == [[0, 2, 4], [0, 1, 2]]


def test_pool_averages_cells():
    x = torch.arange(16.0).view(1, 16, 1).repeat(2, 1, 3)
    reduction = Pool().select(LayerState(keys=x, prefix=0, grid=(4, 4), budget=4))
    assert reduction.keep[0].tolist() == [0, 2, 8, 10]
    assert reduction.apply(x)[0, :, 0].tolist() == [2.5, 4.5, 10.5, 12.5]
    assert reduction.apply_sizes(torch.ones(2, 16))[0].tolist() == [4, 4, 4, 4]


@pytest.mark.parametrize("grid,budget,cells", [((4, 4), 15, 12), ((4, 4), 16, 16), ((2, 8), 4, 4), ((5, 3), 1, 1)])
def test_pool_keeps_the_aspect_and_the_budget(grid, budget, cells):
    patches = grid[0] * grid[1]
    reduction = Pool().select(LayerState(keys=torch.zeros(1, patches + 1, 1), prefix=1, grid=grid, budget=budget))
    assert reduction.keep.shape[1] == cells + 1


def test_pool_twice_uses_the_places_in_the_image():
    x = torch.arange(16.0).view(1, 16, 1)
    first = Pool().select(LayerState(keys=x, grid=(4, 4), budget=8))
    second = Pool().select(LayerState(keys=first.apply(x), grid=(4, 4), budget=2, positions=first.keep))
    assert second.apply_sizes(first.apply_sizes(torch.ones(1, 16)))[0].tolist() == [8, 8]


def test_merging_weighs_by_size():
    reduction = Reduction(torch.tensor([[0, 2]]), None, torch.tensor([[0, 1, 1, -1]]))
    x = torch.tensor([[[1.0], [2.0], [5.0], [100.0]]])
    assert reduction.apply(x).flatten().tolist() == [1.0, 3.5]
    assert reduction.apply(x, torch.tensor([[1.0, 2.0, 1.0, 1.0]])).flatten().tolist() == [1.0, 3.0]
    assert reduction.apply_sizes(torch.tensor([[1.0, 2.0, 1.0, 1.0]])).flatten().tolist() == [1.0, 3.0]


def test_weighted_sums_are_the_same_as_a_product_of_matrices():
    x, weights, slot = torch.randn(3, 9, 4), torch.rand(3, 9), torch.randint(6, (3, 9))
    joins = (torch.arange(5)[:, None] == slot[:, None]).float()  # (b, m, n)
    expected = joins @ (x * weights[..., None])
    torch.testing.assert_close(summed(x, slot, 5, weights), expected)
    torch.testing.assert_close(_product(x, slot, 5, weights), expected)


def test_tome_links_to_the_most_similar():
    keys = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [1.0, 0.1]]])
    reduction = ToMe(r=1).select(LayerState(keys=keys))  # sources 0 and 2 link to 3 and 1 with the same cosine
    assert reduction.merge_to.tolist() == [[2, 1, 0, 2]]
    both = ToMe(r=9).select(LayerState(keys=keys))
    assert both.keep.tolist() == [[1, 3]] and both.merge_to.tolist() == [[1, 0, 0, 1]]


def test_tome_orders():
    keys = torch.randn(2, 21, 4)
    reference, position = (
        ToMe(4, order).select(LayerState(keys=keys, prefix=1)) for order in ("reference", "position")
    )
    assert torch.equal(reference.keep.sort(1).values, position.keep)
    x = torch.randn(2, 21, 4)
    order = reference.keep.argsort(1)[..., None].expand(-1, -1, 4)
    torch.testing.assert_close(reference.apply(x).gather(1, order), position.apply(x))


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_tome_never_touches_special_tokens_or_padding(prefix):
    valid = torch.arange(40) < torch.tensor([40, 30])[:, None]
    keys = torch.randn(2, 40, 4)
    for given in (None, valid):
        reduction = ToMe(r=1000).select(LayerState(keys=keys, prefix=prefix, valid=given))
        assert reduction.keep[:, :prefix].tolist() == [list(range(prefix))] * 2
        sizes = reduction.apply_sizes(torch.ones(2, 40))
        assert (sizes[:, :prefix] == 1).all()
        assert sizes.sum(1).tolist() == [40, 40 if given is None else 30]


def test_replay_repeats():
    recorded = ToMe(r=3).select(state())
    assert Replay({2: (recorded,)}).select(state(layer=2)) is recorded


@pytest.mark.parametrize("method", [RandomDrop(), Stride(), TopKAttention(), Pool()])
def test_rankers_need_a_schedule(method):
    with pytest.raises(ValueError, match="schedule"):
        method.select(state())


def test_pool_says_what_it_cannot_do():
    with pytest.raises(ValueError, match="grid"):
        Pool().select(state(budget=3))


def test_importance_must_have_been_read():
    with pytest.raises(ValueError, match="reads"):
        state().importance()
