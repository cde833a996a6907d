"""The packaged vision-language model as a folder that transformers can load, converted once."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import transformers

from saintprune.errors import SaintpruneError
from saintprune.models import vlm_packaged
from saintprune.models.checkpoint import file_sha256
from saintprune.models.packaged import cache_dir

FORMAT = 1  # of the conversion; a change makes every cached folder obsolete
MANIFEST = "digests.json"


def packaged_folder() -> Path:
    """Return the folder of the packaged model, made at the first call and made again when it is damaged.

    Raises:
        SaintpruneError: If a package is not installed or not the published one, or the folder cannot be written.
    """
    folder = cache_dir() / f"vlm-{digest()[:16]}"
    if not intact(folder):
        try:
            _write(folder)
        except OSError as error:
            raise SaintpruneError(
                f"cannot write {folder} ({error.strerror or error}): it takes 0.7 GB; make room, or choose another "
                "place with SAINTPRUNE_CACHE=DIR"
            ) from error
    return folder


def digest() -> str:
    """Return the digest of all that the folder is made from: weights, projector, and transformers' major version."""
    parts = (
        FORMAT,
        vlm_packaged.LANGUAGE.sha256,
        vlm_packaged.TOWER.sha256,
        vlm_packaged.projector_sha256(),
        transformers.__version__.split(".")[0],
    )
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()


def intact(folder: Path) -> bool:
    """Return whether the folder holds every file as it was written."""
    try:
        digests: dict[str, str] = json.loads((folder / MANIFEST).read_text())
        return all(file_sha256(str(folder / name)) == expected for name, expected in digests.items())
    except (OSError, ValueError):
        return False


def _write(folder: Path) -> None:
    """Write to a temporary folder beside it and rename that, so that no reader ever sees half a model."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}-"))
    try:
        net, processor = vlm_packaged.assemble(vlm_packaged.read_projector())
        net.save_pretrained(draft)
        processor.save_pretrained(draft)
        digests = {file.name: file_sha256(str(file)) for file in sorted(draft.iterdir())}
        (draft / MANIFEST).write_text(json.dumps(digests, indent=2) + "\n")
        if not intact(folder):  # another process may have been faster
            shutil.rmtree(folder, ignore_errors=True)
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
