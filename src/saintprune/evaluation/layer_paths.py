"""What a plan with schedules leaves at each layer of a model of which only the widths are there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from saintprune.adapters.instruction import relevance
from saintprune.adapters.run import choose
from saintprune.adapters.vlm import VLM
from saintprune.adapters.vlm_families import last_read_block
from saintprune.errors import SaintpruneError
from saintprune.plan import Plan, Step
from saintprune.reduction import LayerState
from saintprune.reduction.baselines import KeepAll

QUESTION = 32  # text tokens behind an image


@dataclass(frozen=True)
class Depths:
    """Layers of the whole model.

    Attributes:
        decoder: decoder layers.
        tower: tower blocks.
    """

    decoder: int
    tower: int


@dataclass(frozen=True)
class Selection:
    """One pruned layer: its site, its number in the whole model, and what makes the work of selecting there."""

    site: str
    layer: int
    prepare: Callable[[], Callable[[], Any]]


@dataclass
class TokenPath:
    """Image tokens of one image on their way through the whole model, without text and special tokens.

    Attributes:
        entry: before any pruning.
        tower: that enter each tower block, and last those that leave the tower.
        decoder: that enter each decoder layer, and last those that leave the decoder.
        selections: the pruned layers.
    """

    entry: int
    tower: list[int] = field(default_factory=list)
    decoder: list[int] = field(default_factory=list)
    selections: list[Selection] = field(default_factory=list)


def check(adapter: VLM, plan: Plan, depths: Depths) -> None:
    """Check that a plan fits the whole model, and that it says how many tokens it leaves without a look at images.

    Raises:
        SaintpruneError: it does not; the message says where.
    """
    if adapter.tower is None or adapter.net.config.model_type != "llava":
        raise SaintpruneError(
            f"model.sample_layers can stand for LLaVA only, not for {type(adapter.net).__name__}: take the whole model"
            " (model.sample_layers=null)"
        )
    last = last_read_block(adapter.net, depths.tower)
    for layer, step in _in_tower(adapter, plan, depths).items():
        if layer > last and not isinstance(step.stage.method, KeepAll):
            raise SaintpruneError(
                f"stages.{step.name}.layers has {layer}, but this model reads its features after block {last} of"
                f" {depths.tower}: prune at {last} or below"
            )
    plan.at("projector", 1)
    plan.at("language", depths.decoder)
    for name, stage in plan.stages.items():
        if stage.schedule is None and not isinstance(stage.method, KeepAll):
            raise SaintpruneError(
                f"stages.{name}: {type(stage.method).__name__} decides by what it sees how many tokens to leave, so"
                f" {adapter.depth} layers cannot stand for {depths.decoder}: give the stage a schedule, or take the"
                " whole model (model.sample_layers=null)"
            )


@torch.inference_mode()
def follow(adapter: VLM, plan: Plan, depths: Depths, entry: int) -> TokenPath:
    """Return the schedule of a plan, found by letting its methods select among tokens of noise.

    Args:
        adapter: of the model, of which some layers are there.
        plan: to follow, see `check`.
        depths: of the whole model.
        entry: image tokens.
    """
    found = TokenPath(entry)
    places = torch.arange(entry, device=adapter.net.device)[None]
    steps = _in_tower(adapter, plan, depths)
    tower, decoder = (_Width.of(part.config) for part in (adapter.core.vision_tower, adapter.decoder.net))
    prefix = adapter.tower.prefix if adapter.tower is not None else 0
    for layer in range(depths.tower):
        found.tower.append(places.shape[1])
        if layer in steps:
            places = _select(found, "vision", steps[layer], layer, depths.tower, places, tower, prefix)
    found.tower.append(places.shape[1])
    if (step := plan.at("projector", 1).get(0)) is not None:
        features = _Width(decoder.tokens, decoder.tokens, 1)
        places = _select(found, "projector", step, 0, 1, places, features, 0)
    steps = plan.at("language", depths.decoder)
    for layer in range(depths.decoder):
        found.decoder.append(places.shape[1])
        if layer in steps:
            places = _select(found, "language", steps[layer], layer, depths.decoder, places, decoder, 0)
    found.decoder.append(places.shape[1])
    return found


@dataclass(frozen=True)
class _Width:
    """Numbers per token: of the token, of a key averaged over heads; and the heads of queries."""

    tokens: int
    keys: int
    heads: int

    @classmethod
    def of(cls, config: Any) -> _Width:
        heads = config.num_attention_heads
        return cls(config.hidden_size, getattr(config, "head_dim", None) or config.hidden_size // heads, heads)


def _select(
    found: TokenPath, site: str, step: Step, layer: int, depth: int, places: Tensor, width: _Width, prefix: int
) -> Tensor:
    """Note one pruned layer; return the places [1, m] in the image of the tokens that are left."""
    prepare = partial(_state, step, layer, depth, places, width, prefix, found.entry)
    found.selections.append(Selection(site, layer, lambda: partial(_reduced, step, prepare())))
    kept = choose(step, prepare()).keep[:, prefix:] - prefix
    return places.gather(1, kept.sort(1).values)


def _state(step: Step, layer: int, depth: int, places: Tensor, width: _Width, prefix: int, entry: int) -> LayerState:
    """Return what the method sees: noise in the place of tokens and keys."""
    device, length = places.device, places.shape[1] + prefix
    method, side = step.stage.method, math.isqrt(entry)
    keys, tokens = (torch.randn(1, length, size, device=device) for size in (width.keys, width.tokens))
    noise = torch.randn(width.heads, length, width.keys, device=device)
    text = torch.randn(1, width.tokens, device=device)
    return LayerState(
        keys=keys if "keys" in method.reads else tokens[..., :0],
        prefix=prefix,
        tokens=tokens,
        sizes=torch.ones(1, length, device=device) if method.merges else None,
        positions=places,
        grid=(side, side) if side**2 == entry else None,
        layer=layer,
        depth=depth,
        budget=step.budget(entry),
        attention=lambda: _head_rows(noise).mean(1),
        head_attention=partial(_head_rows, noise),
        values=lambda: noise.norm(dim=-1)[None],
        relevances=partial(relevance, tokens, text),
        text_rows=partial(_text_rows, noise),
    )


def _reduced(step: Step, state: LayerState) -> Tensor:
    assert state.tokens is not None
    return choose(step, state).apply(state.tokens, state.sizes)


def _head_rows(keys: Tensor) -> Tensor:
    """Return [1, heads, N]: a row of attention to keys [heads, N, C]."""
    return (keys[:, -1:] @ keys.mT).softmax(-1).transpose(0, 1)


def _text_rows(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return [1, T, N], rows of attention of a short question to keys [heads, N, C], and that all T are there."""
    rows = (keys[:, -QUESTION:] @ keys.mT).softmax(-1).mean(0)[None]
    return rows, torch.ones(rows.shape[:2], dtype=torch.bool, device=keys.device)


def _in_tower(adapter: VLM, plan: Plan, depths: Depths) -> dict[int, Step]:
    """Return what is to be done at each pruned block of the whole tower."""
    return plan.up_to(last_read_block(adapter.net, depths.tower), "vision", depths.tower).at("vision", depths.tower)
