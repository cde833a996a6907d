"""What a decoder is called with, as the bookkeeping of one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from saintprune.adapters.sequence import Prompt
from saintprune.errors import SaintpruneError
from saintprune.reduction import Reduction


def visual_of(prompt: Prompt, visual: Tensor | None) -> Tensor | None:
    """Return [B, T] bool: the image tokens of a pass, given those of the prompts; None where it has another length.

    Raises:
        SaintpruneError: the pass has their length, but its batch is no multiple of theirs.
    """
    if visual is None or visual.shape[1:] != (prompt.entered,):
        return None
    repeats, rest = divmod(prompt.batch, len(visual))
    if rest or not repeats:
        raise SaintpruneError(
            f"visual marks the image tokens of {len(visual)} prompts, but this pass has {prompt.batch} of their length,"
            f" {prompt.entered} tokens: give it one row for each prompt"
        )
    return visual if repeats == 1 else visual.repeat_interleave(repeats, dim=0)


def prompt_of(embeds: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, seen: int) -> Prompt:
    """Return the bookkeeping of a pass that follows `seen` tokens."""
    batch, length = embeds.shape[:2]
    if attention_mask is not None and (not isinstance(attention_mask, Tensor) or attention_mask.ndim != 2):
        raise SaintpruneError("pruning needs attention_mask as (batch, tokens), 0 for padding, not a ready-made one")
    if attention_mask is None and not seen and _begins_anew(position_ids):
        raise SaintpruneError(
            "position_ids begin anew inside a sequence: pruning does not support several sequences packed into one"
        )
    valid = None if attention_mask is None else attention_mask[:, -length:].to(embeds.device, torch.bool)
    if valid is not None and bool(valid.all()):
        valid = None
    return Prompt(batch, length, length, embeds.device, valid)


def _begins_anew(position_ids: Tensor | None) -> bool:
    """Return whether positions fall inside a sequence; those of image grids (mRoPE) do so by nature, text's do not."""
    if position_ids is None or (position_ids.ndim == 3 and len(position_ids) != 4):
        return False
    line = position_ids[0] if position_ids.ndim == 3 else position_ids  # 4 rows: those of the text, then the grid's
    return bool((line.diff(dim=-1) < 0).any())


def gathered_ids(position_ids: Tensor | None, entry: Reduction, seen: int, prompt: Prompt) -> Tensor:
    """Return the position ids [..., B, M] of what is left, from those of the prompt [..., B or 1, T]."""
    if position_ids is None:
        position_ids = torch.arange(seen, seen + prompt.entered, device=prompt.device)[None]
    shape = (*position_ids.shape[:-2], prompt.batch, position_ids.shape[-1])
    keep = entry.keep.expand(*shape[:-1], -1)
    return position_ids.to(prompt.device).expand(shape).gather(-1, keep)
