"""Decoders of transformers: Llama, Mistral, Qwen2, Qwen3 and the text models of Qwen2-VL and Qwen2.5-VL (mRoPE)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial, wraps
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask
from transformers.models.llama.modeling_llama import LlamaModel
from transformers.models.mistral.modeling_mistral import MistralModel
from transformers.models.qwen2.modeling_qwen2 import Qwen2Model
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLTextModel
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

from saintprune.adapters.borrow import borrow, patch, refuse_other_sites, refuse_several_devices
from saintprune.adapters.decoder_inputs import gathered_ids, prompt_of, visual_of
from saintprune.adapters.decoder_run import DecoderRun, View
from saintprune.adapters.kv_cache import KeyTap, PrunedLayer, adopt, check_grows, joined
from saintprune.adapters.run import check_thread, mean_length
from saintprune.adapters.sequence import Prompt, find_spans, without
from saintprune.adapters.text_rows import picked, rotated, text_rows
from saintprune.errors import SaintpruneError
from saintprune.plan import Plan, Step
from saintprune.reduction import Reduction
from saintprune.reduction.rows import taken

_ON_A_GRID = (Qwen2VLTextModel, Qwen2_5_VLTextModel)  # image tokens have rows and columns for positions (mRoPE)
DECODERS = (LlamaModel, MistralModel, Qwen2Model, Qwen3Model, *_ON_A_GRID)
DROPPED = -torch.inf  # in every channel of an image feature: the token was dropped before the decoder


class HFDecoder:
    """Prunes image tokens after chosen decoder layers, while a prompt is read; text tokens always survive.

    Inside `pruned()` the decoder and its layers carry their own `forward`, which call the original ones with fewer
    tokens, the mask and the rotary embeddings that belong to them, and a cache whose layers may differ in length.
    Survivors keep their order. The output has the prompt's length again, with zeros where tokens were dropped.

    Args:
        net: one of `DECODERS`, or a causal language model around one.
        position_policy: "absolute": survivors keep the positions that they had. "compact": each layer numbers what is
            left of a prompt 0, 1, 2, …
        cache: of a pruned layer itself, which saw the tokens that it dropped: "keep" its entries, so that decoding
            equals a full recompute, or "trim" them, to save their memory.
    """

    def __init__(
        self,
        net: nn.Module,
        position_policy: Literal["absolute", "compact"] = "absolute",
        cache: Literal["keep", "trim"] = "keep",
    ) -> None:
        if position_policy not in ("absolute", "compact"):
            raise ValueError(f"position_policy is {position_policy!r}, but must be 'absolute' or 'compact'")
        if cache not in ("keep", "trim"):
            raise ValueError(f"cache is {cache!r}, but must be 'keep' or 'trim'")
        self.net: Any = net if isinstance(net, DECODERS) else getattr(net, "model", net)
        self.compact, self.trims = position_policy == "compact", cache == "trim"
        self._check_supported()

    @property
    def depth(self) -> int:
        """Number of decoder layers."""
        return self.net.config.num_hidden_layers

    @contextmanager
    def pruned(
        self, plan: Plan, *, visual: Tensor, timed: bool = False, recorded: bool = False
    ) -> Iterator[DecoderRun]:
        """Prune by the plan's language stages for as long as the `with` block lasts.

        One pass at a time is followed: several threads must take turns, or have a network each.

        Args:
            plan: what to prune. Stages of other sites are refused.
            visual: [B, T] bool, the image tokens of the prompts; a pass of another length has none. In one
                of a multiple of B, as beams make it, each prompt stands that often in a row.
            timed: measure the seconds of each selection.
            recorded: keep each reduction.

        Raises:
            NotForThisModelError: the plan has stages of other sites.
            SaintpruneError: the plan does not fit the decoder, or that is being pruned already or on several devices;
                later, a pass of T tokens for a number of prompts that is no multiple of B.
        """
        refuse_other_sites(plan, "language", self.net, "a decoder")
        if plan.stages:
            refuse_several_devices(self.net)
        with ExitStack() as undo:
            run = self.install(undo, plan.at("language", self.depth), timed=timed, recorded=recorded)
            run.visual = visual.cpu()
            yield run

    def install(
        self, undo: ExitStack, steps: dict[int, Step], *, timed: bool = False, recorded: bool = False
    ) -> DecoderRun:
        """Put hooks and forwards in place until `undo` closes; the caller tells the run which tokens are visual."""
        borrow(undo, self.net)
        run = DecoderRun(self.depth, self.trims, timed, recorded)
        undo.callback(setattr, run, "active", False)
        merging = any(step.stage.method.merges for step in steps.values())
        patch(undo, self.net, "forward", self._model_forward(run, merging))
        for number, layer in enumerate(self.net.layers[: self.depth]):
            queries = self._observe_queries(undo, layer, steps.get(number))
            patch(undo, layer, "forward", self._layer_forward(run, layer, number, steps.get(number), queries))
        return run

    def _check_supported(self) -> None:
        kind, config = type(self.net), getattr(self.net, "config", None)
        if kind not in DECODERS:
            known = ", ".join(known.__name__ for known in DECODERS)
            raise SaintpruneError(f"HFDecoder cannot prune a {kind.__name__}; it knows {known}")
        if "sliding_attention" in (getattr(config, "layer_types", None) or ()) or (
            kind is MistralModel and getattr(config, "sliding_window", None) is not None
        ):
            raise SaintpruneError(
                f"this {kind.__name__} attends in a sliding window of {getattr(config, 'sliding_window', None)} tokens,"
                " which dropped tokens would widen: load it with sliding_window=None if your prompts are shorter"
            )
        if self.compact and kind in _ON_A_GRID:
            raise SaintpruneError(
                "position_policy=compact renumbers a line of tokens, but this model places image tokens on a grid"
                " (mRoPE): use position_policy=absolute"
            )

    def _model_forward(self, run: DecoderRun, merging: bool) -> Callable[..., Any]:
        """Return the decoder's forward: the original one on the tokens that earlier sites left."""
        original = self.net.forward

        @wraps(original)
        def forward(
            input_ids: Tensor | None = None,
            attention_mask: Tensor | None = None,
            position_ids: Tensor | None = None,
            past_key_values: Cache | None = None,
            inputs_embeds: Tensor | None = None,
            use_cache: bool | None = None,
            **kwargs: Any,
        ) -> Any:
            check_grows(past_key_values)
            if inputs_embeds is None:
                inputs_embeds = cast(Tensor, self.net.get_input_embeddings()(input_ids))
            seen = 0 if past_key_values is None else past_key_values.get_seq_length()
            prompt = prompt_of(inputs_embeds, attention_mask, position_ids, seen)
            if past_key_values is not None:
                earlier = None if attention_mask is None else attention_mask[:, :seen]
                adopt(past_key_values, self.depth, run, earlier)
            entry = self._enter(run, prompt, inputs_embeds, merging, seen)
            if entry is not None:
                (inputs_embeds,) = taken(entry.keep, inputs_embeds)
                position_ids = gathered_ids(position_ids, entry, seen, prompt)
            output = original(
                attention_mask=inputs_embeds.new_empty(1, 1, 1, 1),  # taken as it is, read by none: layers make theirs
                position_ids=position_ids,
                past_key_values=past_key_values,
                inputs_embeds=inputs_embeds,
                use_cache=use_cache,
                **kwargs,
            )
            _count(output.past_key_values, prompt.entered, bool(prompt.spans))
            output.last_hidden_state = prompt.restored(output.last_hidden_state)
            return output

        return forward

    def _enter(self, run: DecoderRun, prompt: Prompt, embeds: Tensor, merging: bool, seen: int) -> Reduction | None:
        """Find the images of a pass and take out what earlier sites dropped; return that step, None if nothing."""
        entry, visual = None, visual_of(prompt, run.visual)
        prompt.text = mean_length(prompt.lengths())
        if visual is not None:
            prompt.spans = find_spans(visual, run.image_lengths, merging, embeds.device)
            prompt.text -= sum(len(spans.samples) * spans.length for spans in prompt.spans) / prompt.batch
            if run.gaps:
                entry = without(prompt, [spans.of(embeds[..., 0]) != DROPPED for spans in prompt.spans])
        run.begin(prompt, first=seen == 0)
        return entry

    def _layer_forward(
        self, run: DecoderRun, layer: Any, number: int, step: Step | None, queries: list[Tensor]
    ) -> Callable[..., Any]:
        """Return the forward of one layer: the original one with the layer's own mask, then the reduction."""
        original = layer.forward

        @wraps(original)
        def forward(
            hidden_states: Tensor,
            attention_mask: Any = None,
            position_ids: Tensor | None = None,
            past_key_values: Cache | None = None,
            use_cache: bool | None = False,
            position_embeddings: tuple[Tensor, Tensor] | None = None,
            **kwargs: Any,
        ) -> Tensor:
            check_thread(run.thread)
            prompt = run.current
            if number == 0:
                assert position_embeddings is not None
                run.embeddings = position_embeddings
                if past_key_values is not None:
                    adopt(past_key_values, self.depth, run, None)  # one that the decoder made itself
            held = None if past_key_values is None else cast(PrunedLayer, past_key_values.layers[number])
            before = 0 if held is None else held.held
            version, view = prompt.version, self._view(run, prompt, held, before, hidden_states, position_ids)
            selecting = step is not None and bool(prompt.spans)
            tap, kept = KeyTap(past_key_values) if selecting else None, None
            try:
                out = original(
                    hidden_states,
                    attention_mask=view.mask,
                    position_ids=view.position_ids,
                    past_key_values=past_key_values if tap is None else tap,
                    use_cache=use_cache,
                    position_embeddings=view.embeddings,
                    **kwargs,
                )
                if held is not None:
                    held.valid = view.valid
                if step is not None and tap is not None:
                    out, kept = self._reduced(run, step, number, out, prompt, tap, held, layer, queries, view)
            finally:
                queries.clear()  # also when a pass is interrupted: the next one would find two
            if held is not None:
                run.after(held, prompt, version, kept, tap)
            return out

        return forward

    def _reduced(
        self,
        run: DecoderRun,
        step: Step,
        number: int,
        x: Tensor,
        prompt: Prompt,
        tap: KeyTap,
        held: PrunedLayer | None,
        layer: Any,
        queries: list[Tensor],
        view: View,
    ) -> tuple[Tensor, Reduction | None]:
        """Let the step's method select; return the tokens that are left, and the step to them."""
        assert tap.new is not None
        reads = step.stage.method.reads
        keys = tap.new.mean(1, dtype=torch.float32) if "keys" in reads else None  # (b, kv, m, c) -> (b, m, c)
        valid = prompt.valid if held is None else held.valid
        row = cache(partial(attention_row, layer.self_attn, queries, view.embeddings, tap, prompt.valid, valid))
        row, text = row if "importance" in reads else None, None
        if "text_attention" in reads:
            slots = prompt.text_slots()  # before any span is pruned
            text = cache(partial(text_rows, layer.self_attn, queries, view.embeddings, tap, slots, valid))
        x, kept = run.reduce(step, number, x, prompt, keys, row, text)
        if kept is None:
            return x, None
        assert run.embeddings is not None
        x, *rotary = taken(kept.keep, x, *run.embeddings)
        run.embeddings = rotary[0], rotary[1]
        return x, kept

    def _view(
        self, run: DecoderRun, prompt: Prompt, held: PrunedLayer | None, before: int, x: Tensor, ids: Tensor | None
    ) -> View:
        """Return what a layer attends with; layers that hold the same tokens share it."""
        history = () if held is None else held.history
        key = (history, before, prompt.version)
        if key not in run.views:
            past = None if held is None else held.valid
            valid = joined(past, prompt.valid, before, prompt.length, prompt.batch, prompt.device)
            untouched = not history and not prompt.version
            embeddings = run.embeddings
            assert embeddings is not None
            if self.compact and not untouched:
                embeddings = self._renumbered(x, prompt, past, before)
            # kernels that unpack sequences by their position ids would take gaps for new sequences
            run.views[key] = View(self._mask(x, valid, before), valid, embeddings, ids if untouched else None)
        return run.views[key]

    def _mask(self, x: Tensor, valid: Tensor | None, before: int) -> Any:
        """Return the causal mask of tokens x [B, M, D] that follow `before` cached ones."""
        if self.net.config._attn_implementation == "sdpa":
            if x.shape[1] == 1:  # a step of decoding, layer by layer
                return None if valid is None else valid[:, None, None]
            if valid is None and not before:
                return None  # such a mask is its default
        return create_causal_mask(
            config=self.net.config,
            inputs_embeds=x,
            attention_mask=valid,
            past_key_values=cast(Cache, _Past(before)),
            layer_idx=0,
        )

    def _renumbered(self, x: Tensor, prompt: Prompt, past: Tensor | None, before: int) -> tuple[Tensor, Tensor]:
        """Return rotary embeddings for what is left, numbered on from what the layer's cache holds."""
        begin = torch.full((prompt.batch,), before, device=x.device) if past is None else past.sum(1)
        rank = prompt.alive().long().cumsum(1).sub(1).clamp_min(0)
        return self.net.rotary_emb(x, begin[:, None] + rank)

    @staticmethod
    def _observe_queries(undo: ExitStack, layer: Any, step: Step | None) -> list[Tensor]:
        """Hook the queries where the method reads rows of attention; return where they will be found."""
        found: list[Tensor] = []
        if step is not None and step.stage.method.reads & {"importance", "text_attention"}:
            module = getattr(layer.self_attn, "q_norm", None) or layer.self_attn.q_proj
            undo.callback(module.register_forward_hook(lambda _, args, output: found.append(output)).remove)
        return found


class _Past:
    """Tells transformers' mask functions how many tokens a layer's cache holds."""

    is_compileable = False

    def __init__(self, length: int) -> None:
        self.length = length

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Return the place of the first query."""
        return self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Return (tokens to attend to, offset)."""
        return self.length + query_length, 0


def _count(cache_: Any, tokens: int, visual: bool) -> None:
    """Tell each layer of the cache how many tokens it has seen by now."""
    for layer in [] if cache_ is None else cache_.layers:
        layer.seen += tokens
        layer.unpruned = 0 if visual else layer.unpruned + tokens


def attention_row(
    attention: Any,
    queries: list[Tensor],
    embeddings: tuple[Tensor, Tensor],
    tap: KeyTap,
    valid: Tensor | None,
    all_valid: Tensor | None,
) -> Tensor:
    """Recompute one row of attention, [B, M]: what the last real token of each sample gives to each token of the pass.

    Args:
        attention: the attention module.
        queries: [B, M, heads * width] or [B, M, heads, width], before RoPE, as the one element.
        embeddings: cosines and sines, [B or 1, M, width].
        tap: the layer's keys.
        valid: [B, M] bool; None means that all are real.
        all_valid: [B, L] bool over cached tokens and those of the pass; None means that all are real.
    """
    assert tap.all is not None and tap.new is not None
    (query,) = queries
    length = query.shape[1]
    if valid is None:
        query, cos, sin = (part[:, -1:] for part in (query, *embeddings))
    else:
        last = (valid * torch.arange(length, device=query.device)).argmax(1, keepdim=True)
        query, cos, sin = (picked(part, last) for part in (query, *embeddings))
    query = rotated(attention, query, cos, sin).unflatten(1, (tap.all.shape[1], -1))  # (b, kv, h / kv, 1, c)
    logits = (query[:, :, :, 0] @ tap.all.float().mT).flatten(1, 2) * attention.scaling  # (b, h, l)
    if all_valid is not None:
        logits = logits.masked_fill(~all_valid[:, None], -torch.inf)
    return logits.softmax(-1).mean(1)[:, -length:]
