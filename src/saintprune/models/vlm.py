"""Load a vision-language model of transformers: `load` picks the source of the weights and returns a `LoadedVLM`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import is_flash_attn_2_available

from saintprune.errors import SaintpruneError, did_you_mean
from saintprune.models import vlm_cache, vlm_hub, vlm_packaged, vlm_random
from saintprune.models.vlm_configs import published_config
from saintprune.models.vlm_folder import architecture_of, from_folder

ATTENTION = ("sdpa", "eager", "flash_attention_2")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PACKAGED = f"packaged:{vlm_packaged.NAME}"


@dataclass(frozen=True)
class LoadedVLM:
    """A vision-language model in eval mode without gradients, with its own processor.

    Attributes:
        net: ``net(**inputs)`` gives logits, ``net.generate(**inputs)`` gives token ids.
        processor: Images and text to inputs, padded on the left; None where random weights have none.
        architecture: Name of the class.
        source: Where the weights came from, for the run record; JSON-ready.
    """

    net: nn.Module
    processor: Any
    architecture: str
    source: Mapping[str, Any]

    @property
    def weights_sha256(self) -> str | None:
        """The digest that identifies the weights; None for random ones."""
        return self.source.get("sha256")

    def prompt(self, question: str, images: int = 1) -> str:
        """Return the model's chat template around a question, with placeholders for the images before it.

        Raises:
            SaintpruneError: If the model has no processor, or the processor no chat template.
        """
        if getattr(self.processor, "chat_template", None) is None:
            raise SaintpruneError(
                f"{self.architecture} ({self.source['weights']} weights) has no "
                f"{'processor' if self.processor is None else 'chat template'}, so it cannot be asked questions; "
                "take published weights, or task=benchmark for random ones"
            )
        content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": question}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def load(
    repository: str | None = None,
    *,
    weights: str = "hub",
    pretrained: bool = True,
    checkpoint: str | None = None,
    revision: str | None = None,
    config: Mapping[str, Any] | None = None,
    sample_layers: int | None = None,
    attn_implementation: str = "sdpa",
    dtype: str | torch.dtype | None = None,
    seed: int = 0,
) -> LoadedVLM:
    """Return a vision-language model in eval mode, frozen, with its own processor.

    Args:
        repository: Hub repository; with random weights, whose dimensions to take.
        weights: ``hub``, or ``packaged:vit_s14_smollm2``.
        pretrained: False gives random weights, drawn from `seed` without touching torch's global random state.
        checkpoint: A local folder written by ``save_pretrained``, with its processor; wins over `weights`.
        revision: Commit, tag or branch of the repository; None is the main branch. The record names the commit.
        config: With random weights, changes to the published config.
        sample_layers: With random weights, how many decoder layers and tower blocks to build; None is all.
        attn_implementation: ``sdpa``, ``eager`` or ``flash_attention_2``.
        dtype: Of the weights; None keeps the published one (random weights: float32).
        seed: Seed of random weights.

    Raises:
        SaintpruneError: For an unknown name, weights that are not there, or weights that do not fit.
    """
    _check_request(repository, weights, pretrained, checkpoint, attn_implementation)
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise SaintpruneError(f"model.net.dtype is {dtype!r}{did_you_mean(dtype, DTYPES)}; give {', '.join(DTYPES)}")
    kind = DTYPES[dtype] if isinstance(dtype, str) else dtype
    if not pretrained:
        name = repository if weights == "hub" else vlm_packaged.NAME
        return _random(name, config, sample_layers, attn_implementation, kind or torch.float32, seed)
    for key, value in (("model.sample_layers", sample_layers), ("model.net.config", config)):
        if value is not None:
            raise SaintpruneError(f"{key} changes the network, so no published weights fit: add model.pretrained=false")
    if checkpoint is not None:
        folder, what, source = Path(checkpoint), f"model.checkpoint {checkpoint}", {"weights": "checkpoint"}
        source["folder"] = str(checkpoint)
    elif weights == PACKAGED:
        folder, what, source = vlm_cache.packaged_folder(), weights, {"weights": weights, **_packaged_facts()}
    else:
        found = vlm_hub.fetch(str(repository), revision)
        folder, what = found.path, str(repository)
        source = {"weights": "hub", "hub_id": repository, "revision": found.revision}
    net, processor = from_folder(folder, what, attn_implementation=attn_implementation, dtype=kind)
    if "sha256" not in source:
        source["sha256"] = vlm_hub.weights_sha256(folder)
    return _finish(net, processor, source)


def _check_request(
    repository: str | None, weights: str, pretrained: bool, checkpoint: str | None, attention: str
) -> None:
    if weights not in ("hub", PACKAGED):
        raise SaintpruneError(f"model.net.weights is {weights!r}; give hub or {PACKAGED}")
    if weights == "hub" and repository is None and checkpoint is None and pretrained:
        raise SaintpruneError(f"model.net names no weights: give repository, checkpoint, or weights={PACKAGED}")
    if checkpoint is not None and not pretrained:
        raise SaintpruneError(
            "model.pretrained=false asks for random weights, but model.checkpoint names a folder; leave out one of them"
        )
    if attention not in ATTENTION:
        raise SaintpruneError(
            f"model.net.attn_implementation is {attention!r}{did_you_mean(attention, ATTENTION)}; "
            f"give {', '.join(ATTENTION)}"
        )
    if attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise SaintpruneError(
            "model.net.attn_implementation=flash_attention_2 needs an NVIDIA GPU and the package flash-attn, which are "
            "not here: pip install flash-attn, or take sdpa"
        )


def _random(
    name: str | None,
    changes: Mapping[str, Any] | None,
    sample_layers: int | None,
    attention: str,
    dtype: torch.dtype,
    seed: int,
) -> LoadedVLM:
    config = published_config(name, changes)
    architecture = architecture_of(config.model_type, name or "model.net.config")
    source: dict[str, Any] = {"weights": "random", "dimensions": name, "seed": seed}
    if changes:
        source["config"] = dict(changes)
    if sample_layers is not None:
        source["layers"] = vlm_random.sample(config, sample_layers)
    net = vlm_random.build(architecture, config, attn_implementation=attention, dtype=dtype, seed=seed)
    return _finish(net, None, source)


def _finish(net: PreTrainedModel, processor: Any, source: dict[str, Any]) -> LoadedVLM:
    net.eval().requires_grad_(False)
    name = type(net).__name__
    return LoadedVLM(net, processor, name, {"architecture": name, "transformers": transformers.__version__, **source})


def _packaged_facts() -> dict[str, Any]:
    """Return digests and licences of what the packaged model is made from."""
    facts: dict[str, Any] = {"sha256": vlm_cache.digest()}
    for part, entry in (("tower", vlm_packaged.TOWER), ("language", vlm_packaged.LANGUAGE)):
        facts[part] = {"file": entry.file, "sha256": entry.sha256, "licence": entry.licence}
    projector = vlm_packaged.PROJECTOR
    facts["projector"] = {
        "file": projector.name,
        "sha256": vlm_packaged.projector_sha256(),
        "licence": vlm_packaged.PROJECTOR_LICENCE,
    }
    return facts
