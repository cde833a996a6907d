"""Rows of a decoder layer's attention, recomputed for a few tokens, so that no whole map is ever formed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saintprune.adapters.kv_cache import KeyTap
from saintprune.adapters.sequence import Spans


@dataclass(frozen=True, eq=False)
class TextRows:
    """What text tokens give to the tokens of a pass.

    Attributes:
        rows: [B, T, M] float32, attention averaged over heads; 0 where no text token is there.
        slots: [B, T] int64, where the text tokens stand among the M.
        present: [B, T] bool, False where a sample has fewer than T.
    """

    rows: Tensor
    slots: Tensor
    present: Tensor

    def of(self, spans: Spans, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows [R, T, m] for image spans that stand at slots [R, m], and which text [R, T] follows each."""
        sample = spans.sample[:, 0]
        rows = self.rows[sample].gather(2, slots[:, None].expand(-1, self.rows.shape[1], -1))
        end = slots if spans.valid is None else slots.masked_fill(~spans.valid, -1)
        return rows, self.present[sample] & (self.slots[sample] > end.amax(1, keepdim=True))


def text_rows(
    attention: Any,
    queries: list[Tensor],
    embeddings: tuple[Tensor, Tensor],
    tap: KeyTap,
    text: Tensor,
    all_valid: Tensor | None,
) -> TextRows:
    """Recompute the attention of text tokens; memory is that of T rows for the query heads of one KV head.

    Args:
        attention: the attention module.
        queries: [B, M, heads * width] or [B, M, heads, width], before RoPE, as the one element.
        embeddings: cosines and sines, [B or 1, M, width].
        tap: the layer's keys.
        text: [B, M] bool, the text tokens.
        all_valid: [B, L] bool over cached tokens and those of the pass; None means that all are real.
    """
    assert tap.all is not None and tap.new is not None
    (query,) = queries
    length, total, groups = tap.new.shape[2], tap.all.shape[2], tap.all.shape[1]
    slots = (~text).long().argsort(dim=1, stable=True)[:, : int(text.sum(1).max())]  # (b, t): text first, in order
    present = text.gather(1, slots)
    cos, sin = (picked(part, slots) for part in embeddings)
    query = rotated(attention, picked(query, slots), cos, sin).unflatten(1, (groups, -1))  # (b, kv, h / kv, t, c)
    place = torch.arange(total, device=text.device)
    seen = place <= slots[..., None] + total - length  # (b, t, l): causal
    seen = (seen if all_valid is None else seen & all_valid[:, None])[:, None]
    rows = query.new_zeros(*slots.shape, total)
    for group in range(groups):
        logits = query[:, group] @ tap.all[:, group, None].float().mT * attention.scaling  # (b, h / kv, t, l)
        rows += logits.masked_fill(~seen, -torch.inf).softmax(-1).sum(1)
    rows = rows[..., -length:] / (groups * query.shape[2])
    return TextRows(rows.masked_fill(~present[..., None], 0), slots, present)


def picked(x: Tensor, slots: Tensor) -> Tensor:
    """Return [B, T, ...]: of x [B or 1, M, ...], what stands at slots [B, T]."""
    sample = torch.arange(len(slots), device=x.device)[:, None]
    return x.expand(len(slots), *x.shape[1:])[sample, slots]


def rotated(attention: Any, query: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return the queries [B, heads, T, width] in float32 after RoPE.

    Args:
        attention: the attention module.
        query: [B, T, heads * width] or [B, T, heads, width].
        cos: cosines, [B or 1, T, width].
        sin: sines, as many.
    """
    query = query.view(*query.shape[:2], -1, attention.head_dim).transpose(1, 2)  # (b, h, t, c)
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    return rotate(query, query, cos, sin)[0].float()
