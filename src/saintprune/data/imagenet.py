"""ImageNet-1k (ILSVRC 2012) from a local copy: ``path/val/n01440764/*.JPEG``, and ``path/train`` for calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saintprune.data.imagefolder import ImageFolder
from saintprune.data.images import ImageFiles
from saintprune.errors import SaintpruneError

CLASSES = 1000


class ImageNet1k(ImageFolder):
    """The 50,000 validation images; labels follow the sorted WordNet ids, as pretrained classifiers do."""

    def __init__(self, *, path: str | None = None, **settings: Any) -> None:
        """Keep the settings.

        Args:
            path: The folder that holds ``val`` and, for calibration, ``train``.
            **settings: See `ImageFolder`.

        Raises:
            SaintpruneError: If `path` is not set, or holds no ``val``.
        """
        if path is None:
            raise SaintpruneError(
                "dataset.path is not set: ImageNet-1k cannot be downloaded freely (https://image-net.org asks for a "
                "registration). Give dataset.path=FOLDER, where FOLDER/val holds 1000 folders n01440764 ... n15075141"
            )
        root = Path(path)
        if not (root / "val").is_dir():
            raise SaintpruneError(
                f"dataset.path {path} has no folder val: expected {path}/val/n01440764/*.JPEG, a folder per WordNet id"
            )
        train = root / "train"
        super().__init__(
            path=str(root / "val"),
            train_path=str(train) if train.is_dir() else None,
            name="imagenet1k",
            licence="ImageNet terms of access (non-commercial research)",
            **settings,
        )

    def test_split(self) -> ImageFiles:
        """Return the validation images after checking that all 1000 classes are there."""
        split = super().test_split()
        if self.num_classes != CLASSES or not all(name.startswith("n") for name in self.classes or ()):
            raise SaintpruneError(
                f"{self.path} has {self.num_classes} class folders; ImageNet-1k has {CLASSES}, named by WordNet id. "
                "For a subset use dataset=imagefolder with a model that has these classes"
            )
        return split
