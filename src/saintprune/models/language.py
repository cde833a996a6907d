"""Load the decoder of a language model of transformers, for the analysis of text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModel, AutoTokenizer

from saintprune.errors import SaintpruneError
from saintprune.models import packaged, vlm, vlm_hub, vlm_random

PACKAGED = "packaged:smollm2"


@dataclass(frozen=True)
class LoadedLanguage:
    """A decoder without its head, in eval mode without gradients, with its tokenizer.

    Attributes:
        net: ``net(**inputs)`` gives hidden states.
        tokenizer: Text to ``input_ids``.
        architecture: Name of the class.
        source: Where the weights came from, for the run record; JSON-ready.
    """

    net: nn.Module
    tokenizer: Any
    architecture: str
    source: Mapping[str, Any]


def load(
    repository: str | None = None,
    *,
    weights: str = "hub",
    pretrained: bool = True,
    checkpoint: str | None = None,
    seed: int = 0,
) -> LoadedLanguage:
    """Return a decoder of transformers.

    Args:
        repository: Hub repository.
        weights: ``hub``, or ``packaged:smollm2`` (SmolLM2-135M-Instruct, Apache-2.0).
        pretrained: False gives random weights in the published dimensions, drawn from `seed`.
        checkpoint: A local folder written by ``save_pretrained``, with its tokenizer; wins over `weights`.
        seed: Seed of random weights.

    Raises:
        SaintpruneError: For weights that are not there.
    """
    if weights not in ("hub", PACKAGED):
        raise SaintpruneError(f"model.net.weights is {weights!r}; give hub or {PACKAGED}")
    if weights == PACKAGED and checkpoint is None:
        net, tokenizer, source = _packaged()
    else:
        net, tokenizer, source = _from_folder(repository, checkpoint)
    if not pretrained:  # the published network only lends its dimensions and its tokenizer
        net = vlm_random.build(type(net), net.config, attn_implementation="sdpa", dtype=torch.float32, seed=seed)
        source = {"weights": "random", "dimensions": source, "seed": seed}
    name = type(net).__name__
    facts = {"architecture": name, "transformers": transformers.__version__, **source}
    return LoadedLanguage(net.eval().requires_grad_(False), tokenizer, name, facts)


def _packaged() -> tuple[Any, Any, dict[str, Any]]:
    """Return the decoder inside the packaged vision-language model: its weights are those of the package."""
    whole = vlm.load(weights=vlm.PACKAGED)
    facts = {"file": packaged.SMOLLM2.file, "sha256": packaged.SMOLLM2.sha256, "licence": packaged.SMOLLM2.licence}
    return whole.net.get_submodule("model.language_model"), whole.processor.tokenizer, {"weights": PACKAGED, **facts}


def _from_folder(repository: str | None, checkpoint: str | None) -> tuple[Any, Any, dict[str, Any]]:
    """Return the decoder of a local folder, or else of a repository of the hub."""
    if checkpoint is not None:
        folder, facts = Path(checkpoint), {"weights": "checkpoint", "folder": str(checkpoint)}
    elif repository is not None:
        found = vlm_hub.fetch(repository)
        folder, facts = found.path, {"weights": repository, "revision": found.revision}
    else:
        raise SaintpruneError(f"model.net names no weights: give repository, checkpoint, or weights={PACKAGED}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        net = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    except (OSError, ValueError, KeyError) as error:
        raise SaintpruneError(f"{folder} is no language model: {str(error).strip().splitlines()[0]}") from error
    return net, tokenizer, {**facts, "sha256": vlm_hub.weights_sha256(folder)}
