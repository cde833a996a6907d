"""Passages of text, for the analysis of language models: a file of yours, or the reference that Python ships."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from saintprune.data.base import ImageData
from saintprune.errors import SaintpruneError

TEST_EVERY = 4  # of the passages, one in so many is for testing


class TextData(ImageData):
    """Passages of one length in tokens, without labels; batches are mappings of ``input_ids`` and ``attention_mask``.

    The text is cut into passages one after the other, which are dealt to the splits and mixed.
    """

    name = "text"

    def __init__(
        self,
        *,
        tokenizer: Any,
        path: str | None = None,
        tokens: int = 256,
        licence: str | None = None,
        **settings: Any,
    ) -> None:
        """Keep the settings.

        Args:
            tokenizer: The model's own, of transformers.
            path: A file of plain text (UTF-8); None takes the language reference in Python's ``pydoc_data`` (PSF-2.0).
            tokens: Length of a passage.
            licence: Of the text, for the record.
            **settings: See `ImageData`; without ``transform`` and ``input_size``.

        Raises:
            SaintpruneError: For passages of fewer than 8 tokens.
        """
        super().__init__(**settings)
        if tokens < 8:
            raise SaintpruneError(f"dataset.tokens is {tokens}; give 8 or more")
        self.tokenizer = tokenizer
        self.path = path
        self.tokens = tokens
        self.licence = licence if path is not None else "PSF-2.0"
        self.sha256: str | None = None

    def test_split(self) -> Dataset:
        """Return one passage in four."""
        return _Passages(self._passages[::TEST_EVERY][: self.limit])

    def train_split(self) -> Dataset:
        """Return the others."""
        return _Passages([row for number, row in enumerate(self._passages) if number % TEST_EVERY])

    @cached_property
    def _passages(self) -> list[Tensor]:
        """All passages, mixed; both splits deal from them."""
        text = _reference() if self.path is None else _read(Path(self.path))
        self.sha256 = hashlib.sha256(text.encode()).hexdigest()
        ids = self.tokenizer(text, verbose=False)["input_ids"]  # it warns about texts longer than the context
        whole = len(ids) // self.tokens
        if whole < TEST_EVERY:
            raise SaintpruneError(
                f"dataset.path {self.path} has {len(ids)} tokens, but {TEST_EVERY} passages of {self.tokens} are the"
                " least: give a longer text, or a smaller dataset.tokens"
            )
        rows = torch.tensor(ids[: whole * self.tokens]).view(whole, self.tokens)
        order = torch.randperm(whole, generator=torch.Generator().manual_seed(0))
        return list(rows[order])

    def _loader_options(self) -> dict[str, Any]:
        return {"collate_fn": _collate}


class _Passages(Dataset):
    def __init__(self, rows: Sequence[Tensor]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        return self.rows[index]


def _collate(rows: Sequence[Tensor]) -> dict[str, Tensor]:
    ids = torch.stack(list(rows))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SaintpruneError(f"dataset.path: {path} cannot be read as UTF-8 text: {error}") from None


def _reference() -> str:
    from pydoc_data.topics import topics  # half a megabyte, and only who needs it

    return "\n\n".join(topics[name] for name in sorted(topics))
