"""Norms and activations of merged tokens: against loops over tokens, and what must hold of any."""

import math
from contextlib import ExitStack

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from families import FAMILIES, make
from hf_families import FAMILIES as HF_FAMILIES
from hf_families import make as make_hf
from saintprune.adapters import spread
from saintprune.adapters.hf_vision import HFVision
from saintprune.adapters.run import PrunedRun, TokenStream
from saintprune.plan import Plan, Schedule, Stage
from saintprune.reduction import Reduction
from saintprune.reduction.baselines import RandomDrop
from saintprune.reduction.pitome import PiToMe
from saintprune.reduction.saint import Saint
from saintprune.reduction.tofu import ToFu
from saintprune.reduction.tome import ToMe
from saintprune.reduction.ward import Ward

WITHOUT = ("post_norm", "eva02", "eva_post_norm")  # norms behind the halves, gated MLPs
SERVED = [family for family in FAMILIES if family not in WITHOUT]
HALF = Schedule(drop=0.6)


def plan(method=Ward(), layers="all", schedule=HALF, **stage):  # noqa: B008
    return Plan.vision(method, layers, schedule=schedule, spread=True, **stage)


def variance(x):
    return sum((v - sum(x) / len(x)) ** 2 for v in x) / len(x)


class Oracle:
    """One image through a timm ViT, token by token; the merges are those of a recorded run."""

    def __init__(self, net, reductions):
        self.net, self.reductions = net, reductions

    def __call__(self, image):
        net = self.net
        x = net.norm_pre(net._pos_embed(net.patch_embed(image[None])))[0]
        coherence, sizes = [1.0] * len(x), [1.0] * len(x)
        for layer, block in enumerate(net.blocks):
            among = [variance(t.tolist()) * (1 / c - 1) for t, c in zip(x, coherence, strict=True)]
            x = x + self.attention(block, x, coherence, sizes)
            of_mean = [variance(t.tolist()) for t in x]
            coherence = [v / (v + a) for v, a in zip(of_mean, among, strict=True)]
            x, coherence, sizes = self.merge(self.reductions[layer], x, coherence, sizes)
            x = torch.stack([t + self.mlp(block, t, c) for t, c in zip(x, coherence, strict=True)])
        return x

    def normed(self, norm, token, coherence):
        length = math.sqrt(coherence) / math.sqrt(variance(token.tolist()) + norm.eps)
        return (token - token.mean()) * length * norm.weight + norm.bias

    def attention(self, block, x, coherence, sizes):
        attn = block.attn
        x = torch.stack([self.normed(block.norm1, t, c) for t, c in zip(x, coherence, strict=True)])
        q, k, v = attn.qkv(x).view(len(x), 3, attn.num_heads, -1).unbind(1)
        out = []
        for head in range(attn.num_heads):
            logits = q[:, head] @ k[:, head].T * attn.scale + torch.tensor(sizes).log()
            out.append(logits.softmax(-1) @ v[:, head])
        return attn.proj(torch.cat(out, dim=-1))

    def merge(self, reduction, x, coherence, sizes):
        tokens, shares, counts = [], [], []
        for slot in range(reduction.keep.shape[1]):
            members = [i for i, to in enumerate(reduction.merge_to[0].tolist()) if to == slot]
            weights = [reduction.weights[0, i].item() for i in members]
            mean = sum(w * x[i] for w, i in zip(weights, members, strict=True)) / sum(weights)
            of_patches = sum(
                w * variance(x[i].tolist()) / coherence[i] for w, i in zip(weights, members, strict=True)
            ) / sum(weights)
            tokens.append(mean)
            shares.append(min(variance(mean.tolist()) / of_patches, 1.0))
            counts.append(sum(sizes[i] for i in members))
        return torch.stack(tokens), shares, counts

    def mlp(self, block, token, coherence):
        hidden = block.mlp.fc1(self.normed(block.norm2, token, coherence))
        rows = block.mlp.fc1.weight * block.norm2.weight
        deviation = torch.tensor([math.sqrt((1 - coherence) * sum(w * w for w in row)) for row in rows.tolist()])
        return block.mlp.fc2((F.gelu(hidden + deviation) + F.gelu(hidden - deviation)) / 2)


@pytest.mark.parametrize("drop", [0.3, 0.8])  # few tokens are merged ones, or most
def test_against_loops(drop):
    net, adapter, images = make("vit")
    embed, left = net.embed_dim, []
    assert embed == 48 and net.num_prefix_tokens == 1
    with adapter(net).pruned(plan(schedule=Schedule(drop=drop)), recorded=True) as run:
        for image in images:
            left.append((net.forward_features(image[None])[0], [e.reductions[0] for e in run.events]))
    for image, (tokens, reductions) in zip(images, left, strict=True):
        expected = net.norm(Oracle(net, reductions)(image))
        torch.testing.assert_close(tokens, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", SERVED)
def test_rows_of_a_ragged_batch_do_not_touch_each_other(family):
    net, adapter, images = make(family)
    stages = {
        "first": Stage("vision", [0], Saint(0.3, min_neighbours=1, vote="sample")),
        "second": Stage("vision", [1, 2], Ward(), Schedule(keep=(6, 4)), spread=True),
    }
    with adapter(net).pruned(Plan(stages)) as run:
        together = net(images)
        assert run.spreads and run.stream.coherence.min() < 0.999
    with adapter(net).pruned(Plan(stages)):
        alone = torch.cat([net(images[row : row + 1]) for row in range(len(images))])
    torch.testing.assert_close(together, alone, atol=5e-6, rtol=0)


@pytest.mark.parametrize("family", HF_FAMILIES)
def test_towers_of_transformers(family):
    net, images = make_hf(family)
    before = net(images)[0]
    with HFVision(net).pruned(plan()) as run:
        spread_out = net(images)[0]
        assert run.spreads and run.stream.coherence.shape[1:] == (run.stream.tokens, 1)
    with HFVision(net).pruned(Plan.vision(Ward(), "all", schedule=HALF)):
        plain = net(images)[0]
    assert plain.shape == spread_out.shape and not torch.allclose(plain, spread_out)
    assert torch.equal(net(images)[0], before)


@pytest.mark.parametrize("family", SERVED)
def test_equal_patches_have_no_spread(family):
    """Where merged patches are the same, the mean is one of them and nothing is to be put right."""
    net, adapter, _ = make(family)
    images = torch.full((2, 3, *net.patch_embed.img_size), 0.3)
    if getattr(net, "pos_embed", None) is not None:
        net.pos_embed.zero_()
    if getattr(net, "rope", None) is not None:
        pytest.skip("rotary positions tell equal patches apart")
    outs = []
    for stage in ({"spread": True}, {}):
        with adapter(net).pruned(Plan.vision(Ward(), "all", schedule=HALF, **stage)) as run:
            outs.append(net(images))
            coherence = run.stream.coherence
            assert coherence is None or coherence.min() > 1 - 1e-5
    torch.testing.assert_close(outs[0], outs[1], atol=1e-4, rtol=1e-3)


def test_a_norm_acts_on_the_patches_of_a_token():
    """Two patches of one variance: the norm of their mean is the mean of their norms, to the last digits."""
    torch.manual_seed(0)
    pair = F.layer_norm(torch.randn(1, 2, 16), (16,)) * 3 + 1
    both = Reduction(torch.tensor([[0]]), merge_to=torch.tensor([[0, 0]]))
    norm, run, mlp = nn.LayerNorm(16, eps=0), PrunedRun(1), nn.Module()
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    mlp.fc1, mlp.act, mlp.fc2 = nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 16)
    mean, expected = both.apply(pair), norm(pair).mean(1, keepdim=True)
    assert not torch.allclose(norm(mean), expected, atol=0.1)
    run.begin(TokenStream(1, 0, 2, None, coherence=spread.after_attention(None, pair, pair, mean, both)))
    with ExitStack() as undo:
        spread.Spreading.of((norm, nn.LayerNorm(16)), mlp).install(undo, run)
        torch.testing.assert_close(norm(mean), expected)


@pytest.mark.parametrize("family", WITHOUT)
def test_what_has_no_such_norms_or_mlp_is_told_and_merges_plainly(family):
    net, adapter, images = make(family)
    with pytest.warns(UserWarning, match="without `spread`.*plain means"), adapter(net).pruned(plan()) as run:
        told = net(images)
    assert not run.spreads and run.stream.coherence is None
    with adapter(net).pruned(Plan.vision(Ward(), "all", schedule=HALF)):
        assert torch.equal(net(images), told)


class Quantised(nn.Linear):
    """A layer that works as before, whose weight holds something else, as layers of bitsandbytes have it."""

    def __init__(self, layer, weight):
        super().__init__(layer.in_features, layer.out_features)
        self.weight, self.call = nn.Parameter(weight, requires_grad=False), layer.forward

    def forward(self, x):
        return self.call(x)


@pytest.mark.parametrize(("dtype", "packed"), [(torch.int8, False), (torch.float8_e4m3fn, False), (torch.uint8, True)])
def test_quantised_weights_are_told_and_tokens_merge_plainly(dtype, packed):
    net, adapter, images = make("vit")
    for block in net.blocks:
        weight = block.mlp.fc1.weight.to(dtype)
        block.mlp.fc1 = Quantised(block.mlp.fc1, weight.view(-1, 1)[::2] if packed else weight)
    with pytest.warns(UserWarning, match="without `spread`.*not quantised"), adapter(net).pruned(plan()) as run:
        told = net(images)
    assert not run.spreads
    with adapter(net).pruned(Plan.vision(Ward(), "all", schedule=HALF)):
        assert torch.equal(net(images), told)


@pytest.mark.parametrize("method", [ToMe(), ToFu(), PiToMe()])
def test_any_merging_method_takes_it(method):
    net, adapter, images = make("vit")
    with adapter(net).pruned(plan(method)) as run:
        assert net(images).isfinite().all()
        assert run.stream.coherence.le(1).all() and run.stream.coherence.gt(0).all()


def test_it_is_refused_where_nothing_merges():
    with pytest.raises(ValueError, match=r"spread is true, but nothing merges here.*RandomDrop at site=vision"):
        Stage("vision", "all", RandomDrop(), HALF, spread=True)
    with pytest.raises(ValueError, match="Ward at site=language"):
        Stage("language", "all", Ward(), HALF, spread=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    net, adapter, images = make("vit")
    with adapter(net).pruned(plan(layers=[1])):
        full = net(images)
    with adapter(net.to(dtype)).pruned(plan(layers=[1])) as run:
        half = net(images.to(dtype))
    assert half.dtype == dtype and run.stream.coherence.dtype == torch.float32
    assert F.cosine_similarity(half.float(), full).min() > 0.98


def test_gradients_reach_the_images():
    net, adapter, images = make("vit")
    images.requires_grad_(True)
    for drop in (0.3, 0.8):
        with adapter(net).pruned(plan(schedule=Schedule(drop=drop))):
            net(images).sum().backward()
    assert images.grad.isfinite().all() and images.grad.abs().sum() > 0
