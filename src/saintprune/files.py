"""Files that are whole or absent."""

from __future__ import annotations

import os
from pathlib import Path

from saintprune.errors import SaintpruneError


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write a file, text as UTF-8, so that it is either whole or absent, also when the disk is full; return its path.

    Raises:
        SaintpruneError: it could not be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(draft, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise SaintpruneError(
            f"cannot write {path}: {error.strerror}. Nothing was written; make room or choose another place with"
            " hydra.run.dir=DIR"
        ) from error
    return path
