"""The modules work under a Lightning trainer as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from PIL import Image

from saintprune.data.imagefolder import ImageFolder
from saintprune.data.synthetic import Synthetic
from saintprune.errors import SaintpruneError


class Counting(LightningModule):
    """Counts images."""

    seen = 0

    def test_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.seen += len(batch[1])


def trainer(folder: Path) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "barebones": False}
    return Trainer(accelerator="cpu", devices=1, default_root_dir=folder, enable_model_summary=False, **quiet)


def test_every_image_is_seen_once(tmp_path: Path) -> None:
    module = Counting()
    trainer(tmp_path).test(module, datamodule=Synthetic(input_size=(3, 2, 2), size=10, batch_size=4), verbose=False)
    assert module.seen == 10


def test_a_broken_image_stops_the_trainer_with_the_report(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "cat" / "0.png")
    (tmp_path / "cat" / "1.png").write_bytes(b"")
    data = ImageFolder(path=str(tmp_path), transform=lambda image: torch.zeros(3, 2, 2), batch_size=1)
    with pytest.raises(SaintpruneError, match=r"1 of 2 images in .* cannot be read: cat/1.png"):
        trainer(tmp_path).test(Counting(), datamodule=data, verbose=False)
