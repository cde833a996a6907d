"""Key-value caches whose layers hold fewer tokens than the model was given, and what such a cache weighs."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from saintprune.errors import SaintpruneError


class Owner(Protocol):
    """The run that a pruned cache belongs to."""

    active: bool


class PrunedLayer(DynamicLayer):
    """Keys and values of one decoder layer after a pruned prefill.

    As transformers' sliding layers do, it tells `generate` the tokens that were seen, not those that it holds:
    positions and the slicing of prompts go by the former. Which slots are padding travels with the cache, so that beam
    search, which reorders it, takes that along.

    Attributes:
        seen: tokens that the model was given so far.
        valid: [B, L] bool over the L tokens held, False marks padding; None means that all are real.
        history: which reductions shaped it; layers with equal histories hold the same tokens.
        unpruned: tokens at its end that came after the last pruned prompt.
        owner: the run that may append to it.
    """

    def __init__(self, owner: Owner) -> None:
        super().__init__()
        self.owner = owner
        self.seen = 0
        self.valid: Tensor | None = None
        self.history: tuple[tuple[int, int], ...] = ()
        self.unpruned = 0

    @property
    def held(self) -> int:
        """Tokens that it holds."""
        return super().get_seq_length()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append, as any growing layer.

        Raises:
            SaintpruneError: the `with` block that pruned the prompt has ended; masks would be wrong without it.
        """
        if not self.owner.active:
            raise SaintpruneError(
                "this cache was filled by a pruned prompt: go on inside a `with adapter.pruned(plan)` block"
            )
        return super().update(key_states, value_states, *args, **kwargs)

    def get_seq_length(self) -> int:
        """Return the tokens that were seen."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return (tokens to attend to, offset)."""
        return self.held + query_length, 0

    def trim(self, keep: Tensor, valid: Tensor | None, before: int) -> None:
        """Drop what a reduction dropped.

        Args:
            keep: [B, M], of the tokens appended last, those to hold.
            valid: [B, M] bool; None means that all are real.
            before: tokens held when they were appended.
        """
        index = torch.cat([torch.arange(before, device=keep.device).expand(len(keep), -1), keep + before], dim=1)
        self.keys, self.values = (_gathered(part, index) for part in (self.keys, self.values))
        past = None if self.valid is None else self.valid[:, :before]
        self.valid = joined(past, valid, before, keep.shape[1], len(keep), keep.device)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.seen, self.unpruned, self.valid, self.history = 0, 0, None, ()

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the tokens that came last.

        Raises:
            SaintpruneError: they reach into a pruned prompt, where one slot is no longer one token.
        """
        count = abs(tokens_to_remove)
        if count > self.unpruned and self.history:
            raise SaintpruneError(
                f"cannot crop {count} tokens from the cache: only the last {self.unpruned} came after the pruned prompt"
            )
        super().crop(tokens_to_remove)
        self.seen -= count
        self.unpruned -= count
        if self.valid is not None:
            self.valid = self.valid[:, : self.valid.shape[1] - count]

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Follow the beams."""
        super().reorder_cache(beam_idx)
        if self.valid is not None:
            self.valid = self.valid.index_select(0, beam_idx.to(self.valid.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sample."""
        super().batch_repeat_interleave(repeats)
        if self.valid is not None:
            self.valid = self.valid.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some samples."""
        super().batch_select_indices(indices)
        if self.valid is not None:
            self.valid = self.valid[indices]


class KeyTap:
    """Stands in for the cache in one layer's attention: hands everything on and remembers the keys after RoPE.

    Attributes:
        new: [B, KV heads, M, width], keys of the tokens of this pass.
        all: [B, KV heads, L, width], these and the cached ones.
    """

    def __init__(self, cache: Cache | None) -> None:
        self.cache = cache
        self.new: Tensor | None = None
        self.all: Tensor | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append to the cache, where there is one."""
        keys, values = key_states, value_states
        if self.cache is not None:
            keys, values = self.cache.update(key_states, value_states, layer_idx, *args, **kwargs)
        self.new, self.all = key_states, keys
        return keys, values

    def __getattr__(self, name: str) -> Any:
        """Answer everything else as the cache would."""
        return getattr(self.cache, name)


def check_grows(cache: Cache | None) -> None:
    """Check that a cache, where there is one, is of a kind that grows token by token.

    Raises:
        SaintpruneError: it is not.
    """
    if cache is None:
        return
    known = all(type(layer) in (DynamicLayer, PrunedLayer) for layer in cache.layers)
    if not isinstance(cache, DynamicCache) or not known:
        kinds = ", ".join(sorted({type(layer).__name__ for layer in cache.layers})) or "no layers yet"
        raise SaintpruneError(
            f"pruning needs a cache whose layers grow (DynamicCache), but this is a {type(cache).__name__} ({kinds}):"
            " leave past_key_values and cache_implementation to their defaults"
        )


def adopt(cache: Cache, depth: int, owner: Owner, seen: Tensor | None) -> None:
    """Make the layers of a growing cache ones that may hold fewer tokens than were seen.

    Args:
        cache: empty, or filled by an earlier pass.
        depth: decoder layers.
        owner: the run.
        seen: [B, S], 0 marks padding among the tokens of earlier passes; None means that all are real.
    """
    first = cache.layers[0] if len(cache.layers) >= depth else None
    if isinstance(first, PrunedLayer) and first.owner is owner:
        return
    valid = None if seen is None or bool(seen.all()) else seen.bool()
    for number in range(depth):
        old: Any = cache.layers[number] if number < len(cache.layers) else None
        if isinstance(old, PrunedLayer):
            old.owner = owner
            continue
        layer = PrunedLayer(owner)
        if old is not None and old.is_initialized:
            layer.lazy_initialization(old.keys, old.values)
            layer.keys, layer.values = old.keys, old.values
            layer.seen = layer.unpruned = layer.held
            layer.valid = valid
        cache.layers[number : number + 1] = [layer]


def _gathered(states: Tensor | None, index: Tensor) -> Tensor:
    """Return [B, heads, M, width] of states [B, heads, L, width], by index [B, M]."""
    assert states is not None
    return states.gather(2, index[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[-1]))


def joined(
    past: Tensor | None, new: Tensor | None, past_length: int, new_length: int, batch: int, device: torch.device
) -> Tensor | None:
    """Return [B, past + new] bool from two masks of which None means that all are real; None if both are."""
    if past is None and new is None:
        return None
    past = torch.ones(batch, past_length, dtype=torch.bool, device=device) if past is None else past
    new = torch.ones(batch, new_length, dtype=torch.bool, device=device) if new is None else new
    return torch.cat([past, new], dim=1)


def cache_lengths(cache: Cache) -> list[int]:
    """Return the tokens that each layer of a cache holds."""
    return [layer.keys.shape[-2] if layer.is_initialized else 0 for layer in _layers(cache)]


def cache_bytes(cache: Cache) -> int:
    """Return the bytes of all keys and values of a cache."""
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in _layers(cache) if layer.is_initialized)


def _layers(cache: Cache) -> list[Any]:
    return list(cache.layers)
