"""Two stages in one tower: what one leaves ragged, the next must treat as if each image were alone."""

import pytest
import timm
import torch

from families import make
from saintprune.adapters.timm_vit import TimmViT
from saintprune.errors import SaintpruneError
from saintprune.plan import Plan, Schedule, Stage
from saintprune.reduction.baselines import RandomDrop, Stride, TopKAttention
from saintprune.reduction.pool import Pool
from saintprune.reduction.saint import Saint
from saintprune.reduction.saint_budget import SaintBudget
from saintprune.reduction.tome import ToMe

RAGGED = Stage("vision", [0, 1], Saint(0.3, min_neighbours=1, vote="sample"))
SECOND = {
    "tome": Stage("vision", [2, 3], ToMe(2)),
    "tome_in_place": Stage("vision", [2, 3], ToMe(2, "position")),
    "tome_schedule": Stage("vision", [2, 3], ToMe(), Schedule(keep=(7, 4))),
    "attention": Stage("vision", [2, 3], TopKAttention(), Schedule(keep=(5, 3))),
    "pool": Stage("vision", [2], Pool(), Schedule(keep=(4,))),
    "saint": Stage("vision", [2, 3], Saint(0.3, min_neighbours=1, vote="sample", order="reference")),
    "saint_schedule": Stage("vision", [2], Saint(), Schedule(keep=(5,))),
    "saint_budget": Stage("vision", [2], SaintBudget(keep=5)),
    "stride": Stage("vision", [2], Stride(), Schedule(keep=(4,))),
}


@pytest.mark.parametrize("family", ["vit", "siglip", "max_pool", "deit_distilled", "dinov3"])
@pytest.mark.parametrize("second", SECOND)
def test_a_batch_equals_its_rows(family, second):
    net, adapter, images = make(family)
    plan = Plan({"first": RAGGED, "second": SECOND[second]})
    with adapter(net).pruned(plan) as run:
        together = net(images)
        assert run.stream.positions is not None
    alone = []
    for row in range(len(images)):
        with adapter(net).pruned(plan):
            alone.append(net(images[row : row + 1]))
    torch.testing.assert_close(together, torch.cat(alone), atol=3e-6, rtol=0)


def test_pool_after_drops_that_empty_some_cells():
    net, adapter, images = make("vit")
    first = Stage("vision", [0], TopKAttention(), Schedule(keep=(5,)))
    plan = Plan({"first": first, "second": Stage("vision", [1], Pool(), Schedule(keep=(4,)))})
    with adapter(net).pruned(plan) as run:
        assert net(images).isfinite().all()
    assert run.events[-1].tokens_after <= 5


def test_the_grid_is_that_of_the_images():
    net = timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=48, num_heads=4, dynamic_img_size=True).eval()
    grids = []

    class Spy(RandomDrop):
        def select(self, state):
            grids.append(state.grid)
            return super().select(state)

    with TimmViT(net).pruned(Plan.vision(Spy(), [0], schedule=Schedule(drop=0.5))):
        for height, width in ((64, 64), (32, 128), (32, 96)):
            net(torch.randn(1, 3, height, width))
    assert grids == [(4, 4), (2, 8), (2, 6)]


def test_half_precision_pools_do_not_overflow():
    net, adapter, _ = make("mae_global_pool")
    x, weights = torch.full((1, 600, 4), 200.0).half(), torch.ones(1, 600)
    assert adapter(net)._weighted_pool(x, None, weights).tolist() == [[200.0] * 4]


def test_what_a_method_cannot_do_names_the_stage():
    net, adapter, images = make("vit")

    class Odd(Saint):
        def select(self, state):
            raise ValueError("needs an even number of tokens")

    message = r"stages\.vision, block 1: needs an even"
    with adapter(net).pruned(Plan.vision(Odd(), [1])), pytest.raises(SaintpruneError, match=message):
        net(images)


@pytest.mark.parametrize("training", [True, False])
def test_gradient_checkpointing_is_refused(training):
    net, adapter, _ = make("vit")
    net.train(training).set_grad_checkpointing(True)  # of which timm makes use in evaluation, too
    message = r"gradient checkpointing .* call net.set_grad_checkpointing\(False\) to prune$"
    with pytest.raises(SaintpruneError, match=message), adapter(net).pruned(Plan({"a": RAGGED})):
        pass


def test_gradients_flow_through_the_survivors():
    net, adapter, images = make("vit")
    images.requires_grad_(True)
    with adapter(net).pruned(Plan({"first": RAGGED, "second": SECOND["tome"]})):
        net(images).sum().backward()
    assert images.grad.isfinite().all() and images.grad.abs().sum() > 0
