"""What the tests of the projector's and the decoder's peer methods share: states with padding, and plain loops."""

import torch

from saintprune.reduction import LayerState


def ragged(batch=3, tokens=20, prefix=1, seed=0, lengths=(20, 13, 8), **more):
    """A state with padding behind the shorter samples; padding holds numbers that would win if they were looked at."""
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(batch, tokens, 6, generator=generator) + 0.5
    attention = torch.rand(batch, tokens, generator=generator)
    relevance = torch.rand(batch, tokens, generator=generator)
    rows = torch.rand(batch, 4, tokens, generator=generator) / tokens
    present = torch.arange(4) < torch.tensor([4, 3, 1][:batch])[:, None]
    valid = torch.arange(tokens) < torch.tensor(lengths)[:, None]
    keys[~valid] = 50.0
    attention[~valid], relevance[~valid] = 9.0, 9.0
    return LayerState(
        keys=keys,
        prefix=prefix,
        tokens=keys * 2,
        valid=valid,
        attention=lambda: attention,
        relevances=lambda: relevance,
        text_rows=lambda: (rows, present),
        **more,
    )


def alone(state, row, **more):
    """One sample of a ragged state without its padding."""
    n = int(state.valid[row].sum())
    attention, relevance, (rows, present) = state.importance(), state.relevance(), state.text_attention()
    return LayerState(
        keys=state.keys[row : row + 1, :n],
        prefix=state.prefix,
        tokens=state.tokens[row : row + 1, :n],
        budget=state.budget,
        attention=lambda: attention[row : row + 1, :n],
        relevances=lambda: relevance[row : row + 1, :n],
        text_rows=lambda: (rows[row : row + 1, :, :n], present[row : row + 1]),
        **more,
    )


def patches(state):
    """(keys, attention, relevance) of a state of one sample, as lists over patches."""
    keys = state.keys[0, state.prefix :].tolist()
    return keys, state.importance()[0, state.prefix :].tolist(), state.relevance()[0, state.prefix :].tolist()


def best_first(scores):
    """Places by falling score, ties to the earlier."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


def kept(reduction, row=0, prefix=1):
    """Patches that survive in a row."""
    keep = reduction.keep[row] if reduction.valid is None else reduction.keep[row][reduction.valid[row]]
    assert keep[:prefix].tolist() == list(range(prefix))
    return [number - prefix for number in keep[prefix:].tolist()]


def groups(reduction, row=0, prefix=1):
    """{survivor: the patches that it stands for} in a row of a merging reduction."""
    keep, found = reduction.keep[row].tolist(), {}
    for token, slot in enumerate(reduction.merge_to[row].tolist()):
        if slot >= 0 and token >= prefix:
            found.setdefault(keep[slot] - prefix, []).append(token - prefix)
    return found


def check_padding(method, state):
    """Each sample of a ragged batch comes out as it would alone."""
    together = method.select(state)
    for row in range(len(state.keys)):
        single = method.select(alone(state, row))
        assert kept(together, row) == kept(single), row
        if together.merge_to is not None and single.merge_to is not None:
            assert groups(together, row) == groups(single), row
            n = int(state.valid[row].sum())
            expected = single.apply(state.tokens[row : row + 1, :n])
            found = together.apply(state.tokens)[row : row + 1, : expected.shape[1]]
            torch.testing.assert_close(found, expected)
