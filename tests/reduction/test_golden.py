"""The 61 cases that the original programs answered; they settle what "correct" means."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saintprune.reduction import LayerState
from saintprune.reduction.saint import Saint
from saintprune.reduction.saint_budget import SaintBudget
from saintprune.reduction.tome import ToMe

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "public.json").read_text())
TENSORS = load_file(GOLDEN / "public.safetensors")


def cases(*kinds):
    return [pytest.param(c, id=f"{c['kind']}-{c['case']}") for c in CASES if c["kind"] in kinds]


def metric(case):
    return TENSORS[f"{case['case']}.metric"].float()


def test_all_cases_are_there():
    assert len(CASES) == 61


@pytest.mark.parametrize("case", cases("saint_vit", "saint_llm"))
def test_saint(case):
    saint = Saint(
        threshold=case["threshold"],
        min_neighbours=case["min_neighbors"],
        gamma=case["gamma"],
        vote="batch",
        order="reference" if case["kind"] == "saint_vit" else "position",
    )
    reduction = saint.select(LayerState(keys=metric(case), prefix=case.get("protected", 0)))
    assert torch.equal(reduction.keep, TENSORS[f"{case['case']}.keep"].long())


@pytest.mark.parametrize("case", cases("saint_iterative_full_graph"))
def test_saint_budget(case):
    rule = SaintBudget(keep=case["keep"], divisor=case["divisor"], quirk_divisor=True)
    reduction = rule.select(LayerState(keys=metric(case), prefix=case["protected"]))
    assert torch.equal(reduction.keep, TENSORS[f"{case['case']}.keep"].long())


@pytest.mark.parametrize("case", cases("tome"))
def test_tome(case):
    prefix = int(case["class_token"]) + int(case["distill_token"])
    reduction = ToMe(r=case["r"]).select(LayerState(keys=metric(case), prefix=prefix))
    x, n = TENSORS[f"{case['case']}.x"].float(), case["tokens"]
    torch.testing.assert_close(reduction.apply(x), TENSORS[f"{case['case']}.merged"].float(), atol=1e-5, rtol=0)
    size = reduction.apply_sizes(torch.ones(case["batch"], n))
    torch.testing.assert_close(size, TENSORS[f"{case['case']}.size"].float().view_as(size), atol=1e-5, rtol=0)
