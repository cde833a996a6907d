"""ELPV: the published files, the fixed split, and errors that say how to get the images."""

from __future__ import annotations

import hashlib
import importlib.util
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from saintprune.data import elpv
from saintprune.data.elpv import Elpv
from saintprune.errors import SaintpruneError

needs_images = pytest.mark.skipif(
    importlib.util.find_spec("elpv_dataset") is None, reason="needs requirements/assets.txt"
)


def to_tensor(image: Image.Image) -> Tensor:
    assert image.mode == "RGB" and image.size == (300, 300)
    return torch.zeros(3, 2, 2)


@needs_images
def test_the_split_is_exact_stratified_and_pinned() -> None:
    cells = elpv.read_labels(elpv.PACKAGE.find())
    test = elpv.test_indices(cells)
    assert len(cells) == 2624 and len(test) == len(set(test)) == 656
    whole, part = Counter(cell.stratum for cell in cells), Counter(cells[index].stratum for index in test)
    assert len(whole) == 8 and all(abs(part[key] - whole[key] / 4) < 1 for key in whole)
    names = "\n".join(cells[index].name for index in test)
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == "1d59395d57409b61"


@needs_images
def test_the_module_has_both_splits() -> None:
    data = Elpv(transform=to_tensor, batch_size=8)
    train, test = data.train_dataloader().dataset, data.test_dataloader().dataset
    assert (len(train), len(test)) == (1968, 656)
    assert not {file.name for file in train.files} & {file.name for file in test.files}
    assert data.classes == ("functional", "defective") and data.licence == "CC BY-NC-SA 4.0"
    head = [file.label for file in train.files[:200]]
    assert 0.2 < sum(head) / 200 < 0.45  # 0.31 in all: a prefix is a fair sample


@needs_images
def test_a_limit_keeps_the_proportions() -> None:
    data = Elpv(transform=to_tensor, batch_size=8, limit=32)
    labels = torch.cat([labels for _, labels in data.test_dataloader()])
    assert len(labels) == 32 and 9 <= int(labels.sum()) <= 11


def test_an_absent_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SaintpruneError, match=r"pip install .* requirements/assets.txt \(or: make demo\)"):
        Elpv(transform=to_tensor).setup()


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("images/a.png  1.0  mono\n")
    with pytest.raises(SaintpruneError, match=r"are incomplete .*a.png.*reinstall them"):
        Elpv(root=str(tmp_path), transform=to_tensor).setup()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    with pytest.raises(SaintpruneError, match=rf"expected sha256 {elpv.PACKAGE.sha256}, got .*reinstall them"):
        Elpv(root=str(tmp_path), transform=to_tensor).setup()
