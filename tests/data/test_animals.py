"""Animals: the published files, read without unpickling them, the fixed split without copies, and helpful errors."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import pickletools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from saintprune.data import animals
from saintprune.data.animals import Animals, Silhouettes
from saintprune.data.images import ImageFile, read_rgb
from saintprune.errors import SaintpruneError

needs_images = pytest.mark.skipif(
    importlib.util.find_spec("animal_mnist") is None, reason="needs requirements/assets.txt"
)


def to_tensor(image: Image.Image) -> Tensor:
    assert image.mode == "RGB" and image.size == (28, 28)
    return pil_to_tensor(image)


def test_an_image_is_read_as_it_is_in_the_array() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 23
    image = read_rgb(Silhouettes(pixels, np.zeros(2, int)).opened("bear/0001"))
    assert image.mode == "RGB" and image.size == (3, 2)
    assert (np.asarray(image) == pixels[1][:, :, None]).all()


def test_later_copies_are_left_out() -> None:
    pixels = np.array([1, 2, 1, 3, 2], np.uint8).reshape(5, 1, 1)
    found = Silhouettes(pixels, np.array([0, 0, 0, 9, 0])).distinct()
    assert found == [
        ImageFile("bear/0000", 0, "bear"),
        ImageFile("bear/0001", 0, "bear"),
        ImageFile("zebra/0003", 9, "zebra"),
    ]


@needs_images
def test_the_arrays_lie_where_they_are_read() -> None:
    root = animals.PACKAGE.checked()
    images = animals.read(root)
    for name, array in ((animals.PIXELS, images.pixels), (animals.LABELS, images.labels)):
        steps = pickletools.genops(gzip.decompress((root / name).read_bytes()))  # lists them, and runs none
        assert [value for step, value, _ in steps if step.name == "BINBYTES"] == [array.tobytes()]


@needs_images
def test_the_split_is_exact_stratified_and_pinned() -> None:
    images = animals.read(animals.PACKAGE.checked())
    assert Counter(images.labels.tolist()) == dict.fromkeys(range(10), 1000)
    files = images.distinct()
    test = [files[index] for index in animals.test_indices(files)]
    assert len(files) == 9716 and Counter(file.stratum for file in test) == dict.fromkeys(Animals.classes, 100)
    names = "\n".join(file.name for file in test)
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == "7cb94dfe234d2444"


@needs_images
def test_no_image_is_in_both_splits_or_twice_in_one() -> None:
    data = Animals(transform=to_tensor, batch_size=8)
    train, test = data.train_dataloader().dataset, data.test_dataloader().dataset
    assert (len(train), len(test)) == (8716, 1000)
    assert len({image.numpy().tobytes() for split in (train, test) for image, _ in split}) == 9716
    assert data.classes is not None and len(data.classes) == 10 and data.licence == "MIT"
    first = Counter(file.label for file in train.files[:500])
    assert len(first) == 10 and min(first.values()) > 25  # a prefix is a fair sample


@needs_images
def test_labels_fit_the_names() -> None:
    images = animals.read(animals.PACKAGE.checked())
    gray = ((images.pixels > 50) & (images.pixels < 200)).mean(axis=(1, 2))  # stripes; of the others, edges alone
    by_class = {kind: gray[images.labels == label].mean() for label, kind in enumerate(animals.CLASSES)}
    assert by_class.pop("zebra") > 2 * max(by_class.values())
    wide = (images.pixels > 0).any(axis=1).sum(axis=1)
    widths = {kind: wide[images.labels == label].mean() for label, kind in enumerate(animals.CLASSES)}
    assert min(widths, key=lambda kind: widths[kind]) == "giraffe"


@needs_images
def test_a_limit_keeps_the_proportions() -> None:
    data = Animals(transform=to_tensor, batch_size=8, limit=40)
    labels = torch.cat([labels for _, labels in data.test_dataloader()])
    assert torch.bincount(labels).tolist() == [4] * 10


def test_an_absent_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    words = r"animal images \(package animal-mnist\) are not installed; run: pip install .* \(or: make demo\)"
    with pytest.raises(SaintpruneError, match=words):
        Animals(transform=to_tensor).setup()


def test_other_files_are_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(SaintpruneError, match=r"are incomplete .*animal_data_version_3.gz.*reinstall them"):
        Animals(root=str(tmp_path), transform=to_tensor).setup()
    for name in (animals.PIXELS, animals.LABELS):
        (tmp_path / name).write_bytes(b"no gzip")
    with pytest.raises(SaintpruneError, match=rf"expected sha256 {animals.PACKAGE.sha256}, got .*reinstall them"):
        Animals(root=str(tmp_path), transform=to_tensor).setup()
