"""The photographs of scikit-image and scikit-learn: which, in which order, and what happens when they are not there."""

import pytest
from torchvision.transforms import functional

from saintprune.data import photographs
from saintprune.data.photographs import NAMES, Photographs
from saintprune.errors import SaintpruneError


def transform(image):
    return functional.to_tensor(image.resize((32, 32)))


def test_all_and_the_first():
    data = Photographs(transform=transform, batch_size=4)
    data.setup()
    batches = list(data.test_dataloader())
    assert sum(len(images) for images, _ in batches) == len(NAMES) == 15
    images, labels = batches[0]
    assert images.shape == (4, 3, 32, 32) and labels.tolist() == [-1] * 4 and data.classes is None
    cat = images[0].mean((1, 2))
    assert cat[0] > cat[1] > cat[2], "the cat is ginger"
    assert len(Photographs(transform=transform, limit=3).test_split()) == 3
    assert len(data.train_split()) == 15 and "CC BY 2.0" in data.licence


def test_other_files_and_none(monkeypatch):
    monkeypatch.setattr(photographs, "NAMES", NAMES[:-1])
    with pytest.raises(SaintpruneError, match="ships other files; pip install scikit-image"):
        Photographs(transform=transform).setup()
    monkeypatch.setattr(photographs, "NAMES", (("skimage", "none.png"),))
    with pytest.raises(SaintpruneError, match=r"none\.png cannot be read; pip install"):
        Photographs(transform=transform).setup()
    monkeypatch.setattr(photographs, "FOLDERS", {"no_such_package": "."})
    monkeypatch.setattr(photographs, "NAMES", (("no_such_package", "none.png"),))
    with pytest.raises(SaintpruneError, match="no_such_package is not installed; pip install"):
        Photographs(transform=transform).setup()
