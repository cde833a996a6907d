"""What `from saintprune import …` promises: pyright reads this file (see pyproject.toml), pytest runs it."""

from __future__ import annotations

from typing import assert_type

import timm
import torch
from torch import nn

import saintprune
from saintprune import LayerState, Plan, Pruned, Reducer, Reduction, Saint, Schedule, Stage, TimmViT, ToMe, prune

SMALL = {"pretrained": False, "depth": 2, "embed_dim": 24, "num_heads": 2, "img_size": 32}


class Everyone(Reducer):
    """A method of somebody else."""

    def select(self, state: LayerState) -> Reduction:
        """Keep all."""
        batch, tokens, _ = state.keys.shape
        return Reduction(torch.arange(tokens).expand(batch, -1))


def network() -> nn.Module:
    """Return a tiny network."""
    return timm.create_model("vit_tiny_patch16_224", **SMALL).eval()


def test_the_one_liner() -> None:
    with prune(network(), "tome", flops=0.9, images=torch.randn(2, 3, 32, 32)) as pruned:
        assert_type(pruned, Pruned)
        pruned.model(torch.randn(1, 3, 32, 32))
    assert_type(pruned.tokens_per_layer, list[float])
    assert_type(pruned.plan, Plan)
    handle = saintprune.prune(network(), drop=0.5)
    assert_type(handle.restore(), None)
    if pruned.calibrated is not None:
        assert_type(pruned.calibrated.value, float)


def test_plans_and_adapters() -> None:
    plan = Plan.vision(Saint(threshold=0.9), layers="all", schedule=Schedule(drop=0.5))
    assert_type(plan, Plan)
    adapter = TimmViT(network(), pool="sizes")
    with adapter.pruned(plan) as run:
        adapter.net(torch.randn(1, 3, 32, 32))
    assert_type(run.tokens_per_layer, list[float])
    own = Plan({"own": Stage("vision", [0], Everyone(), Schedule(drop=0.0)), "tome": Stage("vision", [1], ToMe(r=1))})
    with prune(network(), own) as pruned:
        pruned.model(torch.randn(1, 3, 32, 32))
    assert pruned.tokens_per_layer == [5.0, 4.0]
