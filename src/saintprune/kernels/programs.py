"""The programs of the kernels, in Triton: one instance works on a row, a token or a tile. What calls them is beside."""

# pyright: basic, reportGeneralTypeIssues=false
# Triton compiles these functions: annotations other than constexpr would mean something else to it

import triton
import triton.language as tl


@triton.jit
def activated(x, ACTIVATION: tl.constexpr):
    """Of `kernels.ACTIVATIONS`, by number."""
    if ACTIVATION == 0:
        return 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))
    elif ACTIVATION == 1:  # (1 + tanh(u)) / 2 is sigmoid(2 u)
        return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif ACTIVATION == 2:
        return x * tl.sigmoid(1.702 * x)
    elif ACTIVATION == 3:
        return x * tl.sigmoid(x)
    else:
        return tl.maximum(x, 0.0)


@triton.jit
def widen(hidden, among, gain, out, width, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    """A part of a row of hidden units."""
    row = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = unit < width
    mean = tl.load(hidden + row * width + unit, mask=inside, other=0.0).to(tl.float32)
    apart = tl.load(among + row)
    if apart == 0.0:  # a token that none has joined
        found = activated(mean, ACTIVATION)
    else:
        deviation = apart * tl.load(gain + unit, mask=inside, other=0.0)
        found = 0.5 * (activated(mean + deviation, ACTIVATION) + activated(mean - deviation, ACTIVATION))
    tl.store(out + row * width + unit, found.to(out.dtype.element_ty), mask=inside)


@triton.jit
def norm(x, weight, bias, length, out, width, eps, BLOCK: tl.constexpr):
    """A row."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < width
    value = tl.load(x + row * width + channel, mask=inside, other=0.0).to(tl.float32)
    centred = tl.where(inside, value - tl.sum(value, 0) / width, 0.0)
    scale = tl.load(length + row) / tl.sqrt(tl.sum(centred * centred, 0) / width + eps)
    gain = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + channel, (centred * scale * gain + shift).to(out.dtype.element_ty), mask=inside)


@triton.jit
def variance(x, out, width, BLOCK: tl.constexpr):
    """A row."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < width
    value = tl.load(x + row * width + channel, mask=inside, other=0.0).to(tl.float32)
    centred = tl.where(inside, value - tl.sum(value, 0) / width, 0.0)
    tl.store(out + row, tl.sum(centred * centred, 0) / width)


@triton.jit
def unit(keys, out, of_batch, of_head, of_token, patches, heads, width, HEADS: tl.constexpr, WIDTH: tl.constexpr):
    """A token: each of its heads to the same length."""
    patch, sample = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    head, channel = tl.arange(0, HEADS)[:, None], tl.arange(0, WIDTH)[None, :]
    inside = (head < heads) & (channel < width)
    place = sample * of_batch + head * of_head + patch * of_token + channel
    key = tl.load(keys + place, mask=inside, other=0.0).to(tl.float32)
    length = tl.maximum(tl.sqrt(tl.sum(key * key, 1)), 1e-9) * tl.sqrt(heads * 1.0)
    unit = (key / length[:, None]).to(out.dtype.element_ty)
    tl.store(out + (sample * patches + patch) * heads * width + head * width + channel, unit, mask=inside)


@triton.jit
def products(
    query, keys, out, of_batch, of_head, of_token, tokens, heads, width, HEADS: tl.constexpr, WIDTH: tl.constexpr
):
    """A token: its dot product with the query of each head."""
    token, sample = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    head, channel = tl.arange(0, HEADS)[:, None], tl.arange(0, WIDTH)[None, :]
    inside = (head < heads) & (channel < width)
    place = sample * of_batch + head * of_head + token * of_token + channel
    key = tl.load(keys + place, mask=inside, other=0.0).to(tl.float32)
    asked = tl.load(query + (sample * heads + head) * width + channel, mask=inside, other=0.0).to(tl.float32)
    row = tl.arange(0, HEADS)
    tl.store(out + (sample * heads + row) * tokens + token, tl.sum(asked * key, 1), mask=row < heads)


@triton.jit
def links(
    keys,
    inverse,
    valid,
    best,
    partner,
    groups,
    width,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The cheapest partner of a tile of sources, which stand at even places, among all destinations, at odd ones."""
    source, sample = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1).to(tl.int64)
    sources, destinations = (groups + 1) // 2, groups // 2
    keys, inverse, valid = keys + sample * groups * width, inverse + sample * groups, valid + sample * groups
    here = source < sources
    one = tl.load(inverse + 2 * source, mask=here, other=1.0)
    least, nearest = tl.full([ROWS], float("inf"), tl.float32), tl.zeros([ROWS], tl.int64)
    for start in range(0, destinations, COLUMNS):
        destination = start + tl.arange(0, COLUMNS)
        there = destination < destinations
        dots = tl.zeros([ROWS, COLUMNS], tl.float32)
        squares, others = tl.zeros([ROWS], tl.float32), tl.zeros([COLUMNS], tl.float32)
        for first in range(0, width, CHANNELS):
            channel = (first + tl.arange(0, CHANNELS))[None, :]
            known = channel < width
            key = tl.load(keys + (2 * source)[:, None] * width + channel, mask=here[:, None] & known, other=0.0)
            place = (2 * destination + 1)[:, None] * width + channel
            other = tl.load(keys + place, mask=there[:, None] & known, other=0.0)
            dots = tl.dot(key, tl.trans(other), dots, input_precision="ieee")
            squares += tl.sum(key.to(tl.float32) * key.to(tl.float32), 1)
            others += tl.sum(other.to(tl.float32) * other.to(tl.float32), 1)
        # keys that were rounded are not quite of length 1
        cosine = dots / tl.maximum(tl.sqrt(squares[:, None] * others[None, :]), 1e-9)
        two = tl.load(inverse + 2 * destination + 1, mask=there, other=1.0)
        cost = tl.maximum(1.0 - cosine, 0.0) / (one[:, None] + two[None, :])
        real = here[:, None] & there[None, :]
        if PADDED:
            real = real & (tl.load(valid + 2 * source, mask=here, other=0) != 0)[:, None]
            real = real & (tl.load(valid + 2 * destination + 1, mask=there, other=0) != 0)[None, :]
        cost = tl.where(real, cost, float("inf"))
        lowest, which = tl.min(cost, 1), tl.argmin(cost, 1)
        nearest = tl.where(lowest < least, start + which, nearest)
        least = tl.minimum(lowest, least)
    tl.store(best + sample * sources + source, least, mask=here)
    tl.store(partner + sample * sources + source, nearest, mask=here)
