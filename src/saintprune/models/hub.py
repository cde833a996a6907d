"""Find a timm model's published weights: in the local Hugging Face cache first, then on the hub, failing fast."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants

from saintprune.errors import SaintpruneError

FILES = ("model.safetensors", "pytorch_model.bin")
ABSENT = ("RemoteEntryNotFoundError", "EntryNotFoundError")  # the repository has no such file; by client version
TIMEOUT = 5.0  # seconds to wait for the hub's first answer


@dataclass(frozen=True)
class HubFile:
    """A downloaded weights file.

    Attributes:
        path: Where it lies.
        repo: Its hub repository.
        revision: The commit it belongs to.
        sha256: Its digest, or None if the cache does not tell.
    """

    path: str
    repo: str
    revision: str | None
    sha256: str | None


def fetch(architecture: str, published: Any) -> HubFile:
    """Return the published weights of `architecture`, downloading them only if the cache lacks them.

    Args:
        architecture: The timm name, for the errors.
        published: timm's pretrained config of it (``timm.get_pretrained_cfg``), or None.

    Raises:
        SaintpruneError: If nothing was published, or it is neither cached nor reachable within seconds.
    """
    if published is None or not published.hf_hub_id:
        raise SaintpruneError(
            f"timm publishes no weights for {architecture}; give model.checkpoint=FILE, or model.pretrained=false"
        )
    repo, _, revision = published.hf_hub_id.partition("@")
    names = (published.hf_hub_filename,) if published.hf_hub_filename else FILES
    for name in names:
        path = huggingface_hub.try_to_load_from_cache(repo, name, revision=revision or None)
        if isinstance(path, str):
            return _describe(path, repo)
    return _download(architecture, repo, revision or None, names)


def _download(architecture: str, repo: str, revision: str | None, names: tuple[str, ...]) -> HubFile:
    """Ask for each file once, with a short timeout, before the client's own (long) retries can start."""
    reason = "none of the expected files is there"
    for name in names:
        url = huggingface_hub.hf_hub_url(repo, name, revision=revision)
        try:
            if constants.HF_HUB_OFFLINE:
                raise ConnectionError("HF_HUB_OFFLINE is set")
            huggingface_hub.get_hf_file_metadata(url, timeout=TIMEOUT)
            return _describe(huggingface_hub.hf_hub_download(repo, name, revision=revision), repo)
        except Exception as error:  # the client raises its own, httpx's and OS errors; to a user they are one
            if type(error).__name__ in ABSENT:
                continue
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            break
    raise SaintpruneError(
        f"the weights {repo} ({architecture}) are not in the local cache, and the hub gave none ({reason}): run once "
        "on a machine with hub access, or give model.checkpoint=FILE, or model.pretrained=false for random weights; "
        "model=vit_s14 needs no hub"
    )


def _describe(path: str, repo: str) -> HubFile:
    """Read revision and digest from the cache's layout: ``snapshots/<commit>/<file>`` -> ``blobs/<sha256>``."""
    snapshot = re.search(r"snapshots/([0-9a-f]{40})/", Path(path).as_posix())
    blob = Path(path).resolve().name
    digest = blob if re.fullmatch(r"[0-9a-f]{64}", blob) else None
    return HubFile(path=path, repo=repo, revision=snapshot.group(1) if snapshot else None, sha256=digest)
