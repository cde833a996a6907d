"""CIFAR-10 (Krizhevsky, 2009) through torchvision, from a local copy."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import CIFAR10

from saintprune.data.base import ImageData, Transform
from saintprune.data.sampling import mixed_order, stratified_sample
from saintprune.errors import SaintpruneError


class Cifar10(ImageData):
    """10,000 test and 50,000 training images of 32 x 32 pixels."""

    name = "cifar10"
    licence = "unstated by the authors"
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def __init__(self, *, root: str | None = None, download: bool = False, **settings: Any) -> None:
        """Keep the settings.

        Args:
            root: The folder that holds ``cifar-10-batches-py``.
            download: Whether to fetch the images into `root` if they are not there.
            **settings: See `ImageData`.
        """
        super().__init__(**settings)
        self.root = root
        self.download = download

    def test_split(self) -> Dataset:
        """Return the test images, or `limit` of them."""
        return self._split(train=False, limit=self.limit)

    def train_split(self) -> Dataset:
        """Return the training images."""
        return self._split(train=True, limit=None)

    def _split(self, *, train: bool, limit: int | None) -> Dataset:
        if self.root is None:
            raise SaintpruneError(
                "dataset.root is not set: give the folder that holds cifar-10-batches-py, "
                "or an empty one with dataset.download=true"
            )
        images = open_cifar10(Path(self.root), train=train, download=self.download)
        names = [str(index) for index in range(len(images.targets))]
        chosen = range(len(names)) if limit is None else stratified_sample(images.targets, names, limit)
        order = [chosen[index] for index in mixed_order([names[index] for index in chosen])]
        return _Ordered(images, order, self._require_transform())


def open_cifar10(root: Path, *, train: bool, download: bool) -> CIFAR10:
    """Return torchvision's dataset.

    Raises:
        SaintpruneError: If the files are not in `root` and cannot be downloaded.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"dtype\(\): align")  # the old pickles, read by a new NumPy
            return CIFAR10(str(root), train=train, download=download)
    except (RuntimeError, OSError) as error:
        way_out = "is the network reachable?" if download else "give dataset.root=FOLDER or dataset.download=true"
        raise SaintpruneError(f"CIFAR-10 is not in {root}, or is damaged ({error}); {way_out}") from error


class _Ordered(Dataset):
    """Items of a torchvision dataset in a given order, as (tensor (3, H, W), label)."""

    def __init__(self, images: CIFAR10, order: list[int], transform: Transform) -> None:
        self.images = images
        self.order = order
        self.transform = transform

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = self.images[self.order[index]]
        return self.transform(image), torch.tensor(label)
