"""A small, random tower of every family that the Hugging Face adapter supports, and what is known about them."""

from types import SimpleNamespace

import torch
import transformers
from torch.nn.functional import linear

SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 32, "patch_size": 4}
MLP = {"intermediate_size": 64}
FAMILIES = {
    "clip": (transformers.CLIPVisionModel, transformers.CLIPVisionConfig, MLP),
    "siglip": (transformers.SiglipVisionModel, transformers.SiglipVisionConfig, MLP),
    "dinov2": (transformers.Dinov2Model, transformers.Dinov2Config, {"mlp_ratio": 2}),
    "registers": (
        transformers.Dinov2WithRegistersModel,
        transformers.Dinov2WithRegistersConfig,
        {"mlp_ratio": 2, "num_register_tokens": 3},
    ),
    "vit": (transformers.ViTModel, transformers.ViTConfig, MLP),
}
PREFIX = {"clip": 1, "siglip": 0, "dinov2": 1, "registers": 4, "vit": 1}
PATCHES = 64
CLIP, DINO = ("layer_norm1", "self_attn", "layer_norm2"), ("norm1", "attention", "norm2")
NAMES = {"clip": CLIP, "siglip": CLIP, "dinov2": DINO, "registers": DINO}
NAMES["vit"] = ("layernorm_before", "attention", "layernorm_after")
LAYERS = {"clip": "encoder.layers", "siglip": "encoder.layers", "dinov2": "encoder.layer", "registers": "encoder.layer"}
LAYERS["vit"] = "layers"


def make(family, attention="sdpa"):
    """Return (network, images [3, 3, 32, 32])."""
    network, config, options = FAMILIES[family]
    config = config(**SMALL, **options, attn_implementation=attention)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = network(config).eval().requires_grad_(False)
        for parameter in net.parameters():  # fresh networks have zero biases and tokens: nothing may hide there
            parameter.add_(torch.randn_like(parameter) * 0.1)
        images = torch.randn(3, 3, 32, 32)
    return net, images


def classifier():
    """Return (a ViTForImageClassification, images [6, 3, 32, 32])."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.ViTConfig(**SMALL, **MLP, num_labels=5)
        net = transformers.ViTForImageClassification(config).eval()
    return net.requires_grad_(False), torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def by_hand(family, net, images, reductions, proportional=False, by_size=False):
    """A slow oracle: the tower's forward pass, one image at a time, in plain matrix products.

    Args:
        family: name of the family.
        net: the tower.
        images: [B, 3, H, W].
        reductions: by block, the reduction to follow after attention.
        proportional: whether attention adds the logarithm of the sizes.
        by_size: whether SigLIP's head adds it too.

    Returns:
        Lists over images: last_hidden_state [N, D], pooler_output [D], hidden_states.
    """
    found = [
        _one(family, net, images[row : row + 1], row, reductions, proportional, by_size) for row in range(len(images))
    ]
    return SimpleNamespace(last=[f[0] for f in found], pooled=[f[1] for f in found], hidden=[f[2] for f in found])


def _one(family, net, image, row, reductions, proportional, by_size):
    """The forward of one image; the sizes' logarithms are 0 until something merges."""
    x = net.embeddings(image)[0]
    x = net.pre_layrnorm(x) if family == "clip" else x
    sizes, hidden = torch.ones(len(x)), [x]
    before, attend, after = NAMES[family]
    for number, block in enumerate(net.get_submodule(LAYERS[family])):
        out = _attention(getattr(block, attend), getattr(block, before)(x), sizes.log() * proportional)
        x = x + (out * block.layer_scale1.lambda1 if hasattr(block, "layer_scale1") else out)
        if number in reductions:
            x, sizes = _reduce(reductions[number], row, x, sizes)
        out = block.mlp(getattr(block, after)(x))
        x = x + (out * block.layer_scale2.lambda1 if hasattr(block, "layer_scale2") else out)
        hidden.append(x)
    if family == "clip":
        return x, net.post_layernorm(x[0]), hidden
    if family == "siglip":
        x = net.post_layernorm(x)
        return x, _pooled(net.head, x, sizes.log() * by_size), hidden
    x = net.layernorm(x)
    return x, torch.tanh(net.pooler.dense(x[0])) if family == "vit" else x[0], hidden


def _attention(attention, x, bias):
    """Attention of x [N, D] with a bias [N] per attended token."""
    q, k, v = (
        getattr(attention, name)(x).view(len(x), 4, 8).transpose(0, 1) for name in ("q_proj", "k_proj", "v_proj")
    )
    rows = (q @ k.mT / 8**0.5 + bias).softmax(-1)
    out = getattr(attention, "out_proj", None) or attention.o_proj
    return out((rows @ v).transpose(0, 1).reshape(len(x), 32))


def _reduce(reduction, row, x, sizes):
    """Follow one row of a reduction with loops: padding left out, merged tokens averaged by weight or size."""
    real = len(reduction.keep[row]) if reduction.valid is None else int(reduction.valid[row].sum())
    if reduction.merge_to is None:
        return x[reduction.keep[row, :real]], sizes[reduction.keep[row, :real]]
    members = [[i for i in range(len(x)) if reduction.merge_to[row, i] == slot] for slot in range(real)]
    by = sizes if reduction.weights is None else reduction.weights[row]
    new = torch.stack([sum(x[i] * by[i] for i in group) / sum(by[i] for i in group) for group in members])
    if reduction.norm == "max":
        longest = torch.stack([max(x[i].norm() for i in group) for group in members])
        new = new / new.norm(dim=-1, keepdim=True) * longest[:, None]
    return new, torch.stack([sum(sizes[i] for i in group) for group in members])


def _pooled(head, x, bias):
    """SigLIP's head: the probe attends to x [N, D]."""
    attention = head.attention
    projected = [
        linear(given, w, b).view(-1, 4, 8).transpose(0, 1)
        for given, w, b in zip(
            (head.probe[0], x, x), attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True
        )
    ]
    q, k, v = projected
    out = ((q @ k.mT / 8**0.5 + bias).softmax(-1) @ v).transpose(0, 1).reshape(1, 32)
    out = attention.out_proj(out)
    return (out + head.mlp(head.layernorm(out)))[0]


def mean_query_row(layer, hidden):
    """What SigLIP, which has no class token, looks at: one row of attention for the mean of all queries, [B, N]."""
    x, attention = layer.layer_norm1(hidden), layer.self_attn
    query = attention.q_proj(x).mean(1).view(len(x), 4, 1, 8)
    keys = attention.k_proj(x).view(len(x), -1, 4, 8).transpose(1, 2)
    return (query @ keys.mT / 8**0.5).softmax(-1).mean(1)[:, 0]


def footprint(net):
    """All that pruning could leave behind: weights, attributes, hooks."""
    state = {name: value.clone() for name, value in net.state_dict().items()}
    attributes = {name: sorted(module.__dict__) for name, module in net.named_modules()}
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    return state, attributes, hooks


def assert_same_footprint(before, after):
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:] == after[1:]
