"""Seeded noise of the model's input size: for timing and for tests, never for accuracy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from saintprune.data.base import ImageData
from saintprune.errors import SaintpruneError

NO_LABEL = -1


class Synthetic(ImageData):
    """Standard normal images without labels; the same seed gives the same images, whatever the batch size."""

    name = "synthetic"
    licence = "none needed"

    def __init__(self, *, size: int = 64, seed: int = 0, **settings: Any) -> None:
        """Keep the settings.

        Args:
            size: Number of test images, and of training images.
            seed: Seed of the images; the training images use another stream.
            **settings: See `ImageData`; ``input_size`` is needed, ``transform`` is not used.

        Raises:
            SaintpruneError: If `size` is below 1.
        """
        super().__init__(**settings)
        if size < 1:
            raise SaintpruneError(f"dataset.size is {size}; give 1 or more")
        self.size = size
        self.seed = seed

    def test_split(self) -> Dataset:
        """Return `size` images, or `limit` if that is less."""
        return self._noise(stream=0, size=min(self.size, self.limit or self.size))

    def train_split(self) -> Dataset:
        """Return `size` other images."""
        return self._noise(stream=1, size=self.size)

    def _noise(self, *, stream: int, size: int) -> Dataset:
        if self.input_size is None:
            raise SaintpruneError("dataset synthetic: no input_size; pass the model's own (LoadedModel.input_size)")
        return _Noise(self.input_size, size, seed=2 * self.seed + stream)


class _Noise(Dataset):
    def __init__(self, shape: tuple[int, int, int], size: int, seed: int) -> None:
        self.shape = tuple(shape)
        self.size = size
        self.seed = seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        return torch.randn(self.shape, generator=generator), torch.tensor(NO_LABEL)
