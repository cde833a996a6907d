"""What a pruned layer adds to a pass: few operations, and nothing to wait for where a schedule tells the survivors."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from saintprune.adapters.vlm import VLM
from saintprune.plan import Plan, Schedule, Stage
from saintprune.reduction.baselines import RandomDrop
from saintprune.reduction.saint import Saint
from vlm_families import build, inputs

WAITS = ("aten::_local_scalar_dense", "aten::lift_fresh")  # to read a number of the device, to send one


class Operations(TorchDispatchMode):
    """Counts the operations of torch by name."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


def operations(site, layers, method):
    net = build("llava")
    schedule = Schedule(keep=tuple(14 - 2 * step for step in range(len(layers))))
    with VLM(net).pruned(Plan({"stage": Stage(site, layers, method, schedule)})), Operations() as seen:
        net(**inputs("llava", net, (1,), (0,)), use_cache=True)
    return seen.count


@pytest.mark.parametrize("method", [Saint(), RandomDrop()])
@pytest.mark.parametrize("site", ["vision", "language"])
@torch.no_grad()
def test_one_more_pruned_layer_adds_few_operations_and_no_waiting(site, method):
    one, two = operations(site, [0], method), operations(site, [0, 1], method)
    assert two.total() - one.total() < 60
    for name in WAITS:
        assert two[name] == one[name], name
