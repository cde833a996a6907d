"""Find a model folder of transformers: in the local Hugging Face cache first, then on the hub, failing fast."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants

from saintprune.errors import SaintpruneError
from saintprune.models.checkpoint import file_sha256
from saintprune.models.hub import TIMEOUT

PATTERNS = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]  # never code
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class HubFolder:
    """A downloaded repository.

    Attributes:
        path: Where it lies.
        revision: The commit it belongs to, or None if the cache does not tell.
    """

    path: Path
    revision: str | None


def fetch(repository: str, revision: str | None = None) -> HubFolder:
    """Return the repository's folder, downloading it only if the cache lacks it.

    Args:
        repository: Such as ``llava-hf/llava-1.5-7b-hf``.
        revision: Branch, tag or commit; None is the main branch.

    Raises:
        SaintpruneError: If it is neither cached nor reachable within seconds.
    """
    try:
        found = huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=PATTERNS, local_files_only=True
        )
    except (OSError, ValueError):  # not cached, or no name of a repository
        found = None
    if found is None or not weight_files(Path(found)):
        found = _download(repository, revision)
    snapshot = re.search(r"snapshots/([0-9a-f]{40})", Path(found).as_posix())
    return HubFolder(path=Path(found), revision=snapshot.group(1) if snapshot else None)


def weight_files(folder: Path) -> list[Path]:
    """Return the folder's weight files in order; empty where one is missing, or the config is."""
    if not (folder / "config.json").is_file():
        return []
    names = [WEIGHTS]
    if (folder / INDEX).is_file():
        names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    files = [folder / name for name in names]
    return files if all(file.is_file() for file in files) else []


def weights_sha256(folder: Path) -> str:
    """Return the digest of a folder's weights: that of the file, or of its parts' digests in their order.

    A file in the hub's cache is named by its digest and need not be read.
    """
    digests = []
    for file in weight_files(folder):
        blob = file.resolve().name
        digests.append(blob if re.fullmatch(r"[0-9a-f]{64}", blob) else file_sha256(str(file)))
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _download(repository: str, revision: str | None) -> str:
    """Ask for the config once, with a short timeout, before the client's own (long) retries can start."""
    try:
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("HF_HUB_OFFLINE is set")
        url = huggingface_hub.hf_hub_url(repository, "config.json", revision=revision)
        huggingface_hub.get_hf_file_metadata(url, timeout=TIMEOUT)
        return huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=PATTERNS)
    except Exception as error:  # the client raises its own, httpx's and OS errors; to a user they are one
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    raise SaintpruneError(
        f"the weights {repository} are not (all) in the local cache, and the hub gave none ({reason}): run once on a "
        "machine with hub access, or give model.checkpoint=FOLDER, or model.pretrained=false for random weights; "
        "model=vlm_s14_smollm2 needs no hub"
    )
