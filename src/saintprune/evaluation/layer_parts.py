"""The parts of a vision-language model that can be run apart, at any number of tokens, for one prompt."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from saintprune.adapters.borrow import patch
from saintprune.adapters.vlm import VLM
from saintprune.evaluation.vlm_passes import Inputs, go_on, longer, mask_of, read_prompt
from saintprune.plan import Plan

Work = Callable[[], object]


class Parts:
    """Makes the works that are timed one by one; each runs all the layers that are there, once.

    Args:
        adapter: of the model.
        inputs: of one prompt.
    """

    def __init__(self, adapter: VLM, inputs: Inputs) -> None:
        assert adapter.tower is not None
        self.adapter, self.net, self.inputs = adapter, adapter.net, inputs
        self.tower, self.decoder = adapter.tower, adapter.decoder.net
        self.blocks, self.layers = self.tower.blocks, list(self.decoder.layers[: adapter.depth])
        self.projector = getattr(adapter.core, adapter.family.projector)

    def frame(self, pruned: bool) -> Work:
        """Return the work of reading the prompt in all that is neither layer nor block: embeddings, masks, head, …"""
        return lambda: self._without_layers(pruned, lambda: read_prompt(self.net, self.inputs))

    def step_frame(self) -> Work:
        """Return the work of one further token in all that is not a layer."""
        mask = longer(mask_of(self.inputs), 1)
        token, cache = self.inputs["input_ids"][:, -1:], self._cache(mask.shape[1] - 1)
        return lambda: self._without_layers(False, lambda: go_on(self.net, token, mask, cache))

    def embedding(self) -> Work:
        """Return the work of cutting the picture into patches."""
        return partial(self.tower.net.embeddings, self.inputs["pixel_values"])

    def project(self, patches: int) -> Work:
        """Return the work of the projector."""
        return partial(self.projector, self._noise(patches, self.tower.net.config.hidden_size))

    def block(self, patches: int) -> Work:
        """Return the work of the tower's blocks."""
        x = self._tower_tokens(patches)

        def work() -> None:
            for block in self.blocks:
                block(x, attention_mask=None)

        return work

    def block_mlp(self, patches: int) -> Work:
        """Return the work of the MLPs alone of the tower's blocks."""
        x = self._tower_tokens(patches)
        return lambda: [block.mlp(x) for block in self.blocks]

    def layer(self, tokens: int) -> Work:
        """Return the work of the decoder's layers while they read a prompt."""
        x = self._noise(tokens, self.decoder.config.hidden_size)
        return lambda: self._through_layers(x, DynamicCache())

    def layer_step(self, held: int) -> Work:
        """Return the work of the decoder's layers for one token more than their cache holds."""
        x, cache = self._noise(1, self.decoder.config.hidden_size), self._cache(held)

        def work() -> None:
            self._through_layers(x, cache)
            cache.crop(-1)

        return work

    def cache_bytes(self, held: int) -> int:
        """Return the bytes of the keys and values of one decoder layer."""
        heads, width = self._heads()
        return 2 * heads * width * held * self.net.dtype.itemsize

    def _through_layers(self, x: Tensor, cache: DynamicCache) -> None:
        """Run each layer on x [1, t, D]; all of it attends to all that the cache holds, and causally to itself."""
        before = cache.get_seq_length()
        places = torch.arange(before, before + x.shape[1], device=x.device)[None]
        embeddings = self.decoder.rotary_emb(x, places)
        for layer in self.layers:
            layer(x, attention_mask=None, past_key_values=cache, use_cache=True, position_embeddings=embeddings)

    def _without_layers(self, pruned: bool, work: Work) -> object:
        """Do some work in the model with layers and blocks that only hand on what they get."""
        context: AbstractContextManager[Any] = self.adapter.pruned(Plan()) if pruned else nullcontext()
        with ExitStack() as undo:
            for layer in (*self.blocks, *self.layers):
                patch(undo, layer, "forward", _hand_on)
            with context:
                return work()

    def _cache(self, held: int) -> DynamicCache:
        """Return a cache of noise that holds so many tokens in each layer."""
        cache, (heads, width) = DynamicCache(), self._heads()
        for number in range(len(self.layers)):
            keys, values = self._noise(2 * heads * held, width).view(2, 1, heads, held, width)
            cache.update(keys, values, number)
        return cache

    def _heads(self) -> tuple[int, int]:
        """Return the heads of keys and their width."""
        config = self.decoder.config
        return config.num_key_value_heads, self.layers[0].self_attn.head_dim

    def _tower_tokens(self, patches: int) -> Tensor:
        return self._noise(self.tower.prefix + patches, self.tower.net.config.hidden_size)

    def _noise(self, tokens: int, width: int) -> Tensor:
        """Return [1, tokens, width]."""
        return torch.randn(1, tokens, width, device=self.net.device, dtype=self.net.dtype)


def _hand_on(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return hidden_states
