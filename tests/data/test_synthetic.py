"""Noise without labels, the same for every batch size."""

from __future__ import annotations

import pytest
import torch

from saintprune.data.synthetic import Synthetic
from saintprune.errors import SaintpruneError


def images_of(**settings: object) -> torch.Tensor:
    data = Synthetic(input_size=(3, 4, 4), **settings)
    return torch.cat([images for images, _ in data.test_dataloader()])


def test_images_depend_on_the_seed_alone() -> None:
    first = images_of(size=6, batch_size=2)
    assert first.shape == (6, 3, 4, 4)
    assert torch.equal(first, images_of(size=6, batch_size=5, num_workers=1))
    assert torch.equal(first[:3], images_of(size=6, limit=3))
    assert not torch.equal(first, images_of(size=6, seed=1))


def test_there_are_no_labels() -> None:
    data = Synthetic(input_size=(3, 4, 4), size=3)
    data.setup("test")
    ((images, labels),) = data.test_dataloader()
    assert labels.tolist() == [-1, -1, -1] and labels.dtype == torch.long
    assert data.classes is None and data.num_classes is None
    ((other, _),) = data.train_dataloader()
    assert not torch.equal(images, other)


def test_mistakes_are_explained() -> None:
    with pytest.raises(SaintpruneError, match=r"no input_size"):
        Synthetic().setup()
    with pytest.raises(SaintpruneError, match=r"dataset.size is 0"):
        Synthetic(size=0)
