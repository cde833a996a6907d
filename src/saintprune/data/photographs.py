"""Photographs that scikit-image and scikit-learn ship: for pictures of things that people know, not for scores.

Those of scikit-image are in the public domain or CC0; ``china.jpg`` (by danielbuechele) and ``flower.jpg`` (by
vultilion) of scikit-learn are CC BY 2.0. Only the files are read; neither package is imported.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from saintprune.data.base import ImageData
from saintprune.data.images import ImageFile, ImageFiles
from saintprune.data.packaged import combined_sha256
from saintprune.errors import SaintpruneError

FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}
NAMES = (
    ("skimage", "chelsea.png"),
    ("skimage", "astronaut.png"),
    ("sklearn", "china.jpg"),
    ("skimage", "coffee.png"),
    ("sklearn", "flower.jpg"),
    ("skimage", "rocket.jpg"),
    ("skimage", "camera.png"),
    ("skimage", "coins.png"),
    ("skimage", "clock_motion.png"),
    ("skimage", "hubble_deep_field.jpg"),
    ("skimage", "retina.jpg"),
    ("skimage", "moon.png"),
    ("skimage", "brick.png"),
    ("skimage", "grass.png"),
    ("skimage", "gravel.png"),
)
SHA256 = "2660ef075867e44d2598b26801c4ed1f848d9b4b427ae67f168247f4020fd2e8"  # over the files in this order
INSTALL = "pip install scikit-image==0.26.0 scikit-learn==1.9.1 (or: make demo)"
NO_LABEL = -1


class Photographs(ImageData):
    """Fifteen photographs without labels, the most telling ones first; both splits are the same."""

    name = "photographs"
    licence = "public domain and CC0; china.jpg and flower.jpg CC BY 2.0"

    def test_split(self) -> ImageFiles:
        """Return the photographs, or the first `limit` of them.

        Raises:
            SaintpruneError: If a package is not installed, or holds other files.
        """
        files = photographs()
        return ImageFiles(Path(files[0].anchor), _named(files[: self.limit]), self._require_transform())

    def train_split(self) -> ImageFiles:
        """Return the same."""
        return self.test_split()


def photographs() -> list[Path]:
    """Return the files in their order.

    Raises:
        SaintpruneError: If a package is not installed, or holds other files.
    """
    files = [_folder(package) / name for package, name in NAMES]
    try:
        found = combined_sha256(files)
    except OSError as error:
        raise SaintpruneError(f"dataset photographs: {error.filename} cannot be read; {INSTALL}") from None
    if found != SHA256:
        raise SaintpruneError(
            f"dataset photographs: the installed scikit-image or scikit-learn ships other files; {INSTALL}"
        )
    return files


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SaintpruneError(f"dataset photographs: {package} is not installed; {INSTALL}")
    return Path(spec.origin).parent / FOLDERS[package]


def _named(files: list[Path]) -> list[ImageFile]:
    return [ImageFile(str(file.relative_to(file.anchor)), NO_LABEL, "") for file in files]
