"""A block that is watched, whether or not it is pruned: what it attended to, by the tokens that left it."""

from contextlib import ExitStack

import pytest
import torch

from hf_families import assert_same_footprint, footprint, make, mean_query_row
from saintprune import HFVision
from saintprune.errors import SaintpruneError
from saintprune.plan import Plan
from saintprune.reduction.saint import Saint
from saintprune.reduction.tome import ToMe


@pytest.mark.parametrize("layer", [0, 2, 3])
@pytest.mark.parametrize("family", ["clip", "registers"])
def test_observed_importance_without_pruning(family, layer):
    net, images = make(family)
    net.set_attn_implementation("eager")
    expected = net(images, output_attentions=True).attentions[layer].mean(1)[:, 0]
    before = footprint(net)
    adapter = HFVision(net)
    with adapter.pruned(Plan()) as run, ExitStack() as undo:
        observed = adapter.observe(undo, run, layer, frozenset({"importance"}))
        net(images)
        torch.testing.assert_close(observed.attention(run.current), expected)
        torch.testing.assert_close(observed.importance(), expected)
    assert_same_footprint(before, footprint(net))


@pytest.mark.parametrize("plan", ["drop", "ragged", "merge"])
def test_observed_importance_follows_the_tokens_that_leave_the_block(plan):
    """The block that LLaVA reads may be pruned itself, and so may the last block, which LLaVA does not read."""
    net, images = make("clip", "eager")
    plan = {
        "drop": Plan.vision(Saint(0.3, min_neighbours=1, order="reference"), "all"),
        "ragged": Plan.vision(Saint(0.7, min_neighbours=1, vote="sample"), "all"),
        "merge": Plan.vision(ToMe(6), "all"),
    }[plan]
    adapter = HFVision(net)
    with adapter.pruned(plan, recorded=True) as run, ExitStack() as undo:
        observed = adapter.observe(undo, run, 2, frozenset({"importance"}))
        out = net(images, output_attentions=True, output_hidden_states=True)
    reduction = run.events[2].reductions[0]
    expected = out.attentions[2].mean(1)[:, 0].gather(1, reduction.keep)
    if reduction.valid is not None:
        expected = expected.masked_fill(~reduction.valid, 0)
    assert expected.shape == out.hidden_states[-2].shape[:2] and expected.shape[1] > out.last_hidden_state.shape[1]
    torch.testing.assert_close(observed.importance(), expected)


def test_a_block_before_the_first_pruned_one_can_be_observed():
    net, images = make("siglip")
    adapter = HFVision(net)
    with adapter.pruned(Plan.vision(ToMe(20), [3])) as run, ExitStack() as undo:
        observed = adapter.observe(undo, run, 2, frozenset({"importance", "keys"}))
        for batch in (images, images[:2]):
            hidden = net(batch, output_hidden_states=True).hidden_states[2]
            row, keys = observed.importance(), observed.mean_keys()
            torch.testing.assert_close(row, mean_query_row(net.encoder.layers[2], hidden))
            assert keys.shape == (len(batch), 64, 8)
        with pytest.raises(SaintpruneError, match="block 4 is to be observed, but the network has 4 blocks"):
            adapter.observe(undo, run, 4, frozenset({"keys"}))
