"""Load network and processor from a folder in the format of transformers' ``save_pretrained``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoProcessor,
    InternVLForConditionalGeneration,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    SmolVLMForConditionalGeneration,
)
from transformers.utils import logging

from saintprune.errors import SaintpruneError
from saintprune.models.vlm_hub import weight_files

ARCHITECTURES: dict[str, type[PreTrainedModel]] = {  # by the model type in config.json
    "llava": LlavaForConditionalGeneration,
    "llava_next": LlavaNextForConditionalGeneration,
    "llava_onevision": LlavaOnevisionForConditionalGeneration,
    "smolvlm": SmolVLMForConditionalGeneration,
    "internvl": InternVLForConditionalGeneration,
    "qwen2_vl": Qwen2VLForConditionalGeneration,
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
}


def architecture_of(model_type: str | None, what: str) -> type[PreTrainedModel]:
    """Return the class of a model type.

    Raises:
        SaintpruneError: If it is not one of `ARCHITECTURES`; `what` says whose it is.
    """
    if model_type not in ARCHITECTURES:
        known = ", ".join(known.__name__ for known in ARCHITECTURES.values())
        raise SaintpruneError(f"{what} is of model type {model_type!r}, but saintprune can load {known}")
    return ARCHITECTURES[model_type]


def from_folder(
    folder: Path, what: str, *, attn_implementation: str, dtype: torch.dtype | None
) -> tuple[PreTrainedModel, Any]:
    """Return the network and its processor, whose tokenizer pads on the left, where generation does not continue.

    Args:
        folder: Holds config, weights as safetensors, and the files of the processor.
        what: The model's name, for the errors.
        attn_implementation: Of transformers.
        dtype: Of the weights; None keeps that of the file.

    Raises:
        SaintpruneError: If a file is missing or damaged, or a weight is missing or of another shape.
    """
    if not folder.is_dir():
        raise SaintpruneError(f"{what}: there is no such folder (relative to {Path.cwd()})")
    if not weight_files(folder):
        raise SaintpruneError(
            f"{what} is no complete model: expected what save_pretrained writes, config.json and model.safetensors "
            "(or all its parts)"
        )
    with _quiet():
        try:
            content = json.loads((folder / "config.json").read_text())
            architecture: Any = architecture_of(content.get("model_type"), what)
            net, report = architecture.from_pretrained(
                folder,
                dtype=dtype or "auto",
                attn_implementation=attn_implementation,
                use_safetensors=True,
                output_loading_info=True,
            )
            processor = AutoProcessor.from_pretrained(folder)
        except SaintpruneError:
            raise
        except Exception as error:  # transformers, safetensors and tokenizers raise what they like on a bad folder
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise SaintpruneError(f"{what} cannot be loaded: {reason}") from error
    lacking = sorted(report["missing_keys"]) + sorted(str(key[0]) for key in report["mismatched_keys"])
    if lacking:
        raise SaintpruneError(
            f"{what} lacks {len(lacking)} weights of {architecture.__name__}, such as {lacking[0]}; is it the whole "
            "model, saved by save_pretrained?"
        )
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise SaintpruneError(f"{what} has no processor for images and text; save the model's own beside its weights")
    processor.tokenizer.padding_side = "left"
    return net, processor


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' progress bars and advice off the terminal; its errors still come as exceptions."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
