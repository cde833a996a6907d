"""Random layers for the peer methods, and what a reduction does as plain Python: for their slow oracles."""

import math
from dataclasses import replace

import torch

from saintprune.reduction import LayerState


def layer(tokens=23, prefix=1, lengths=None, batch=3, seed=0, **more):
    """A random layer; `lengths` are the real tokens of each sample, padding holds numbers like any other."""
    generator = torch.Generator().manual_seed(seed)
    batch = batch if lengths is None else len(lengths)
    keys = torch.randn(batch, tokens, 6, generator=generator) + 0.7
    heads = torch.randn(batch, 4, tokens, generator=generator).mul(torch.tensor([0.2, 0.7, 1.5, 2.5])[:, None])
    sizes = torch.randint(1, 4, (batch, tokens), generator=generator).float()
    values, valid = torch.rand(batch, 4, tokens, generator=generator) + 0.1, None
    if lengths is not None:
        valid = torch.arange(tokens) < torch.tensor(lengths)[:, None]
        heads = heads.masked_fill(~valid[:, None], -torch.inf)
    heads = heads.softmax(-1)
    rows = {"attention": lambda: heads.mean(1), "head_attention": lambda: heads, "values": lambda: values}
    x = torch.randn(batch, tokens, 5, generator=generator)
    return LayerState(keys=keys, prefix=prefix, tokens=x, sizes=sizes, valid=valid, **{"depth": 12, **rows, **more})


def single(state, row):
    """One sample of a layer by itself, without its padding."""
    end = state.keys.shape[1] if state.valid is None else int(state.valid[row].sum())
    here = slice(row, row + 1)
    given = {"attention": state.importance(), "head_attention": state.head_importance(), "values": state.value_norms()}
    rows = {name: lambda value=value[here, ..., :end]: value for name, value in given.items()}
    parts = {name: getattr(state, name)[here, :end] for name in ("keys", "tokens", "sizes")}
    return replace(state, valid=None, **parts, **rows)


def groups(reduction, row=0):
    """What becomes of one sample: for each token that is left, its number and the numbers of those in it."""
    kept = reduction.keep[row].tolist()
    kept = kept if reduction.valid is None else kept[: int(reduction.valid[row].sum())]
    if reduction.merge_to is None:
        return [(token, [token]) for token in kept]
    joins = reduction.merge_to[row].tolist()
    return [(token, [i for i, slot in enumerate(joins) if slot == place]) for place, token in enumerate(kept)]


def cosine(a, b):
    """Of two lists."""
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def mean(tokens, weights):
    """The weighted mean of lists."""
    total = sum(weights)
    return [sum(w * t[i] for t, w in zip(tokens, weights, strict=True)) / total for i in range(len(tokens[0]))]


def assert_tokens(reduction, state, expected, row=0):
    """The tokens of one sample that are left equal lists; padding is not looked at."""
    found = reduction.apply(state.tokens, state.sizes)[row]
    found = found if reduction.valid is None else found[reduction.valid[row]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-5)
