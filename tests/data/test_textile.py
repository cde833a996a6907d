"""Textile: the published files, the fixed split, and errors that say how to get the images."""

from __future__ import annotations

import hashlib
import importlib.util
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from saintprune.data import textile
from saintprune.data.textile import Textile
from saintprune.errors import SaintpruneError

needs_images = pytest.mark.skipif(
    importlib.util.find_spec("conformal_clip_data") is None, reason="needs requirements/assets.txt"
)


def to_tensor(image: Image.Image) -> Tensor:
    assert image.mode == "RGB" and image.size == (250, 250)
    return torch.zeros(3, 2, 2)


def test_the_split_is_exact_stratified_and_pinned() -> None:
    files = textile.all_files()
    test = [files[index] for index in textile.test_indices(files)]
    assert Counter(file.stratum for file in files) == {"nominal": 1000, "local": 500, "global": 500}
    assert Counter(file.stratum for file in test) == {"nominal": 250, "local": 125, "global": 125}
    names = "\n".join(file.name for file in test)
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == "d7063bff9ae8756f"


@needs_images
def test_the_module_has_both_splits() -> None:
    data = Textile(transform=to_tensor, batch_size=8)
    train, test = data.train_dataloader().dataset, data.test_dataloader().dataset
    assert (len(train), len(test)) == (1500, 500)
    assert not {file.name for file in train.files} & {file.name for file in test.files}
    assert data.classes == ("nominal", "local", "global") and data.licence == "MIT"
    first = Counter(file.label for file in train.files[:200])
    assert 80 < first[0] < 120 and min(first[1], first[2]) > 30  # a prefix is a fair sample


@needs_images
def test_a_limit_keeps_the_proportions() -> None:
    data = Textile(transform=to_tensor, batch_size=8, limit=32)
    labels = torch.cat([labels for _, labels in data.test_dataloader()])
    assert torch.bincount(labels).tolist() == [16, 8, 8]


def test_an_absent_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    words = r"textile images \(package conformal-clip-data\) are not installed; run: pip install .* \(or: make demo\)"
    with pytest.raises(SaintpruneError, match=words):
        Textile(transform=to_tensor).setup()


def test_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SaintpruneError, match=r"are incomplete .*textile_0001.jpg.*reinstall them"):
        Textile(root=str(tmp_path), transform=to_tensor).setup()
    monkeypatch.setattr(textile, "IMAGES", {"nominal": 1})
    (tmp_path / "nominal").mkdir()
    (tmp_path / "nominal" / "textile_0001.jpg").write_bytes(b"")
    with pytest.raises(SaintpruneError, match=rf"expected sha256 {textile.PACKAGE.sha256}, got .*reinstall them"):
        Textile(root=str(tmp_path), transform=to_tensor).setup()
