"""A decoder layer that is watched while prompts are read, whether or not it is pruned."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from saintprune.adapters.decoder_run import DecoderRun
from saintprune.adapters.hf_decoder import HFDecoder, attention_row
from saintprune.adapters.kv_cache import KeyTap
from saintprune.errors import SaintpruneError


@dataclass(eq=False)
class ObservedLayer:
    """Keys after RoPE and queries of the latest prompt in one layer; they stay in memory until `forget`.

    Attributes:
        run: of the decoder.
        attention: the layer's attention module.
        tap: its keys; None before the first pass.
        embeddings: cosines and sines that it rotated with, [B or 1, M, width].
        valid: [B, M] bool, the tokens that entered the layer and are no padding; None means that all are.
        queries: [B, M, heads * width], before RoPE, as the one element.
    """

    run: DecoderRun
    attention: Any
    tap: KeyTap | None = None
    embeddings: tuple[Tensor, Tensor] | None = None
    valid: Tensor | None = None
    queries: list[Tensor] = field(default_factory=list)

    def mean_keys(self) -> Tensor:
        """Return [B, M, C] float32: the keys averaged over KV heads."""
        assert self.tap is not None and self.tap.new is not None
        return self.tap.new.mean(1, dtype=torch.float32)  # (b, kv, m, c) -> (b, m, c)

    def importance(self) -> Tensor:
        """Return [B, M]: what the last real token gives to each token, averaged over heads; padding 0."""
        assert self.tap is not None and self.embeddings is not None
        return attention_row(self.attention, self.queries, self.embeddings, self.tap, self.valid, self.valid)

    def forget(self) -> None:
        """Free the tensors."""
        self.tap = self.embeddings = self.valid = None
        self.queries.clear()

    def watch(self, undo: ExitStack) -> None:
        """Hook the attention and its queries."""

        def enter(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            cache = kwargs.get("past_key_values")
            if getattr(cache, "cache", cache) is not None:  # a pruned layer has a tap around its cache already
                raise SaintpruneError("a decoder is observed while it reads prompts: call it with use_cache=False")
            self.forget()
            self.tap, self.embeddings = KeyTap(cache), kwargs["position_embeddings"]
            self.valid = self.run.current.valid
            return args, {**kwargs, "past_key_values": self.tap}

        queries = getattr(self.attention, "q_norm", None) or self.attention.q_proj
        undo.callback(self.attention.register_forward_pre_hook(enter, with_kwargs=True).remove)
        undo.callback(queries.register_forward_hook(lambda _, args, output: self.queries.append(output)).remove)


def observe(undo: ExitStack, decoder: HFDecoder, run: DecoderRun, layer: int) -> ObservedLayer:
    """Watch the attention of one decoder layer, without pruning it, in passes without a cache.

    Args:
        undo: takes the undoing; close it before or with `pruned()`.
        decoder: the adapter.
        run: what `pruned()` gave; of a vision-language model `run.decoder`.
        layer: 0-based number of the layer.

    Raises:
        SaintpruneError: the decoder has no such layer; later, a pass with a cache.
    """
    if not 0 <= layer < decoder.depth:
        raise SaintpruneError(f"layer {layer} is to be observed, but the decoder has {decoder.depth} layers")
    observed = ObservedLayer(run, decoder.net.layers[layer].self_attn)
    observed.watch(undo)
    return observed
