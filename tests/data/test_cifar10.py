"""CIFAR-10 comes from a local copy, and is downloaded only on request."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from saintprune.data import cifar10
from saintprune.data.cifar10 import Cifar10
from saintprune.errors import SaintpruneError


class Tiny:
    """Stands in for torchvision's dataset: an image whose brightness is its label."""

    def __init__(self) -> None:
        self.targets = [index % 10 for index in range(40)]

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (32, 32), color=(self.targets[index], 0, 0)), self.targets[index]


def test_absent_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SaintpruneError, match=r"dataset.root is not set"):
        Cifar10().setup()
    with pytest.raises(SaintpruneError, match=r"give dataset.root=FOLDER or dataset.download=true"):
        Cifar10(root=str(tmp_path)).setup()


def test_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "open_cifar10", lambda *_, **__: Tiny())

    def transform(image: Image.Image) -> torch.Tensor:
        return torch.full((3, 2, 2), float(image.getpixel((0, 0))[0]))

    data = Cifar10(root="anywhere", transform=transform, limit=20, batch_size=20)
    ((images, labels),) = data.test_dataloader()
    assert sorted(labels.tolist()) == sorted(list(range(10)) * 2) and labels.tolist() != sorted(labels.tolist())
    assert torch.equal(images[:, 0, 0, 0].long(), labels)
    assert len(data.train_dataloader().dataset) == 40 and data.num_classes == 10
