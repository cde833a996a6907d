"""What every method promises; a new method is tested the moment its YAML exists."""

from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

import vlm_families
from families import make
from plans import plan_of, short
from saintprune.adapters.vlm import VLM
from saintprune.config import config_dir
from saintprune.plan import Plan
from saintprune.reduction import LayerState
from saintprune.reduction.baselines import KeepAll

PRUNINGS = sorted(
    path.relative_to(config_dir() / "pruning").with_suffix("").as_posix()
    for path in (config_dir() / "pruning").glob("**/*.yaml")
)
VALUES = {  # for "every knob changes some result": other values than the default, by name
    "threshold": [0.1, 0.5], "min_neighbours": [1, 9], "gamma": [0.0, 50.0], "vote": ["batch", "sample"],
    "order": ["position", "reference"], "keep": [9, 0.4], "divisor": [1, 3], "quirk_divisor": [True, False],
    "r": [1, 5], "seed": [7, 8], "prune_layers": [0, 12], "ratio": [0.6, 0.8], "margin": [0.2, 0.9],
    "alpha": [0.0, 9.0],
    "fuse": [True, False], "samples": [9, 0.7], "cut": [0.5, 0.9], "heads": ["sharpness", "equal"],
    "prune": [[0.1] * 12, [0.3] * 12], "merge": [[0.1] * 12, [0.2] * 12],
    "diverse": [0.1, 0.6], "per_round": [0.05, 0.5], "contextual": [0.1, 0.4],
    "pivots": [1, 6], "recycle": [0.0, 0.9], "per_cluster": [1, 6], "neighbours": [1, 9],
    "share": [0.05, 0.5], "power": [0.0, 1.0],
}  # fmt: skip


DROP_AND_MERGE = {"SparseVLM"}  # merges some of what it removes and drops the others


def state(batch=4, tokens=65, prefix=1, **more):
    generator = torch.Generator().manual_seed(5)
    keys = torch.randn(batch, tokens, 8, generator=generator) + 1.5  # a common part, as real keys have
    attention = torch.rand(batch, tokens, generator=generator).softmax(1)
    heads = torch.randn(batch, 3, tokens, generator=generator).mul(torch.tensor([[0.3], [1.0], [3.0]])).softmax(-1)
    values = torch.rand(batch, 3, tokens, generator=generator)
    relevance, text = torch.rand(batch, tokens, generator=generator), torch.rand(batch, 5, tokens, generator=generator)
    rows = {
        "attention": lambda: attention,
        "head_attention": lambda: heads,
        "values": lambda: values,
        "relevances": lambda: relevance,
        "text_rows": lambda: (text / tokens, torch.ones(batch, 5, dtype=torch.bool)),
    }
    return LayerState(keys=keys, prefix=prefix, tokens=keys, grid=(8, 8), **{"depth": 12, **rows, **more})


def alone(layer, row):
    """One sample of a state."""
    cut = slice(row, row + 1)
    rows = {
        "attention": layer.importance(),
        "head_attention": layer.head_importance(),
        "values": layer.value_norms(),
        "relevances": layer.relevance(),
    }
    rows = {name: lambda value=value[cut]: value for name, value in rows.items()}
    text, present = layer.text_attention()
    rows["text_rows"] = lambda: (text[cut], present[cut])
    return replace(layer, keys=layer.keys[cut], tokens=layer.tokens[cut], **rows)


# methods are tested once, by the name of the first YAML that has them
STAGES = {
    (stage.site, repr(stage.method)): (pruning, name)
    for pruning in PRUNINGS
    for name, stage in plan_of(pruning).stages.items()
}
METHODS = sorted({method: found for (_, method), found in STAGES.items()}.values())


def method_of(found):
    pruning, name = found
    return plan_of(pruning).stages[name].method


@pytest.mark.parametrize("pruning", METHODS, ids=lambda found: f"{found[0]}-{found[1]}")
class TestEveryMethod:
    @pytest.mark.parametrize("budget", [None, 1, 40, 64])
    def test_indices_are_sound(self, pruning, budget):
        method, layer = method_of(pruning), state(budget=budget)
        if budget is None and not method.decides:
            pytest.skip("decides no number by itself")
        before = layer.keys.clone()
        reduction = method.select(layer)
        assert torch.equal(layer.keys, before)
        assert reduction.keep.dtype == torch.int64
        assert (reduction.keep[:, 0] == 0).all(), "the class token stands first"
        real = torch.ones_like(reduction.keep, dtype=torch.bool) if reduction.valid is None else reduction.valid
        assert (real.long().diff(dim=1) <= 0).all(), "padding stands at the end"
        for row in (row[there] for row, there in zip(reduction.keep, real, strict=True)):
            assert len(set(row.tolist())) == len(row) and row.min() >= 0 and row.max() < 65
        assert (reduction.merge_to is not None) <= method.merges
        if budget is not None and not isinstance(method, KeepAll):
            assert 65 >= reduction.keep.shape[1] >= (2 if budget == 1 else 1)
            assert reduction.keep.shape[1] - 1 <= max(budget, 32), "half a layer at most, or the budget"

    def test_merging_loses_no_patch(self, pruning):
        method = method_of(pruning)
        reduction = method.select(state(budget=40))
        sizes = reduction.apply_sizes(torch.ones(4, 65))
        if type(method).__name__ in DROP_AND_MERGE and reduction.merge_to is not None:
            assert (sizes.sum(1) == (reduction.merge_to >= 0).sum(1)).all() and (sizes > 0).all()
        else:
            assert (sizes.sum(1) == (65 if reduction.merge_to is not None else reduction.keep.shape[1])).all()

    def test_a_sample_does_not_depend_on_its_batch(self, pruning):
        """At a fixed number of tokens; SAINT's vote per batch is the one published exception."""
        method, layer = method_of(pruning), state(budget=40)
        together = method.select(layer)
        for row in range(4):
            single = method.select(alone(layer, row))
            assert torch.equal(single.keep[0], together.keep[row])
            if together.merge_to is not None:
                assert torch.equal(single.merge_to[0], together.merge_to[row])
            if together.weights is not None:
                torch.testing.assert_close(single.weights[0], together.weights[row])

    def test_every_knob_changes_some_result(self, pruning):
        method = method_of(pruning)
        layers = [state(), state(budget=40)] if method.decides else [state(budget=40)]
        for knob in fields(method):
            if not knob.init:
                continue
            outcomes = {
                base: {describe(replace(base, **{knob.name: value}), layers) for value in VALUES[knob.name]}
                for base in (method, *loosened(method))
            }
            assert any(len(found) > 1 for found in outcomes.values()), f"{knob.name} changes nothing"


@pytest.mark.parametrize("pruning", PRUNINGS)
def test_every_plan_runs_in_a_network(pruning):
    plan = plan_of(pruning)
    assert isinstance(plan, Plan)
    layers = {"vision": 2, "projector": 1, "language": 3}
    expected = sum(layers[stage.site] for stage in plan.stages.values())
    if {stage.site for stage in plan.stages.values()} == {"vision"}:
        net, adapter, images = make("vit")
        with adapter(net).pruned(short(plan)) as run:
            assert net(images).isfinite().all()
        assert len(run.events) == expected
    net = vlm_families.build("llava")
    with VLM(net).pruned(short(plan)) as run:
        assert net(**vlm_families.inputs("llava", net)).logits.isfinite().all()
    assert len(run.events) == expected


@pytest.mark.parametrize("found", METHODS, ids=lambda found: f"{found[0]}-{found[1]}")
def test_the_default_number_type_has_no_say(found):
    """Lightning changes it while it scores in half precision."""
    pruning, name = found
    plan = short(Plan({name: plan_of(pruning).stages[name]}))
    net = vlm_families.build("llava")
    given, logits = vlm_families.inputs("llava", net), []
    for kind in (torch.float32, torch.bfloat16):
        with VLM(net).pruned(plan), default_type(kind):
            logits.append(net(**given).logits)
    assert torch.equal(*logits)


@contextmanager
def default_type(kind):
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def loosened(method):
    """The method with a threshold at which the random keys do have neighbours."""
    return [replace(method, threshold=0.8, min_neighbours=3)] if hasattr(method, "threshold") else []


def describe(method, layers):
    """What a method answers, as something to compare."""
    found = [method.select(layer) for layer in layers]
    return str([[part.tolist() if torch.is_tensor(part) else part for part in vars(r).values()] for r in found])


def test_the_yaml_files_are_found():
    assert {"saint", "tome", "random", "stride", "pool", "attention", "none", "saint_budget"} <= set(PRUNINGS)
    assert {"tofu", "pitome", "evit", "ats", "diffrate", "spvit"} <= set(PRUNINGS)
    assert {"saint_language", "saint_hybrid", "drop75/saint_hybrid"} <= set(PRUNINGS)
    assert {type(method_of(found)).__name__ for found in METHODS} >= {"Saint", "ToMe", "SaintBudget", "Pool", "Stride"}
    assert Path(config_dir() / "config.yaml").is_file()
