"""Read a local weights file and load it strictly, with one clear error when it does not fit."""

from __future__ import annotations

import argparse
import hashlib
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from saintprune.errors import SaintpruneError

SUFFIXES = (".safetensors", ".pth", ".pt")
WRAPPERS = ("module.", "_orig_mod.")  # left by DistributedDataParallel and torch.compile
SHOWN = 3


def read_state_dict(path: str) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors``, ``.pth`` or ``.pt`` file; pickled code is never run.

    Accepts a bare state dict, or one under ``model`` or ``state_dict``, and strips wrapper prefixes from the keys.

    Raises:
        SaintpruneError: If there is no such file, or it holds no state dict.
    """
    file = Path(path)
    if not file.is_file():
        raise SaintpruneError(f"model.checkpoint: there is no file {path} (relative to {Path.cwd()})")
    if file.suffix not in SUFFIXES:
        raise SaintpruneError(
            f"model.checkpoint {path}: give one of {', '.join(SUFFIXES)}, not {file.suffix or 'this'}"
        )
    try:
        content = load_file(file) if file.suffix == ".safetensors" else _torch_load(file)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SaintpruneError(f"model.checkpoint {path} cannot be read as weights: {reason}") from error
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise SaintpruneError(
            f"model.checkpoint {path} holds no state dict: expected tensors by name, "
            "bare or under 'model' or 'state_dict'"
        )
    return {_without_wrappers(key): value for key, value in content.items()}


def load_strict(
    net: nn.Module,
    state: dict[str, Tensor],
    checkpoint_filter: Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]],
    what: str,
    architecture: str,
) -> None:
    """Load `state` into `net`, which must match key by key and shape by shape.

    A net built for features (``num_classes`` 0) leaves a file's classifier out; nothing else is ever dropped.

    Args:
        net: The network, changed in place.
        state: Tensors by name.
        checkpoint_filter: timm's filter; it renames keys and resamples position embeddings.
        what: The weights' name, for the error.
        architecture: The network's name, for the error.

    Raises:
        SaintpruneError: Naming a few missing, unexpected and wrongly shaped keys.
    """
    state = checkpoint_filter(dict(state), net)
    if not getattr(net, "num_classes", 0):
        state = {key: value for key, value in state.items() if key.split(".")[0] not in ("head", "head_dist")}
    wanted = net.state_dict()
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    shapes = [
        f"{key}: {_shape(state[key])} in the file, {_shape(wanted[key])} in the model"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    problems = [
        f"{len(keys)} {label} ({_some(keys)})"
        for label, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if keys
    ]
    if problems:
        raise SaintpruneError(
            f"{what} does not fit {architecture}: {'; '.join(problems)}. "
            "Check model.net.architecture, num_classes and global_pool"
        )
    net.load_state_dict(state)


def file_sha256(path: str) -> str:
    """Return the SHA-256 of a file as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _torch_load(file: Path) -> object:
    with torch.serialization.safe_globals([argparse.Namespace]):  # training scripts save their arguments beside
        return torch.load(file, map_location="cpu", weights_only=True)


def _without_wrappers(key: str) -> str:
    for prefix in WRAPPERS:
        key = key.removeprefix(prefix)
    return key


def _shape(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape)


def _some(keys: list[str]) -> str:
    more = len(keys) - SHOWN
    return ", ".join(keys[:SHOWN]) + (f", and {more} more" if more > 0 else "")
