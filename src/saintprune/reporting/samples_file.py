"""The answers to each sample beside a record: NAME.npz beside NAME.json, one array per column."""

from __future__ import annotations

import io
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from saintprune.errors import SaintpruneError
from saintprune.files import write_atomically
from saintprune.metrics.samples import Samples

COLUMNS = tuple(field.name for field in fields(Samples))


def beside(record: Path) -> Path:
    """Return where the answers of a record are."""
    return record.with_suffix(".npz")


def write_samples(path: Path, samples: Samples) -> Path:
    """Write answers so that the file is either whole or absent.

    Raises:
        SaintpruneError: it could not be written.
    """
    columns = {name: getattr(samples, name) for name in COLUMNS}
    arrays = {name: values.cpu().numpy() for name, values in columns.items() if values is not None}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return write_atomically(path, content.getvalue())


def read_samples(path: Path) -> Samples:
    """Read answers.

    Raises:
        SaintpruneError: there is no such file, or it holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return Samples(**{name: torch.from_numpy(stored[name]) for name in stored.files})
    except (OSError, ValueError, TypeError) as error:
        raise SaintpruneError(
            f"{path} holds no answers to samples ({error}): scripts/compare.py writes them with task=evaluate"
        ) from error
