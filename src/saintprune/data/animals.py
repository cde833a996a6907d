"""Animals: small silhouettes of ten kinds of animals, from the ``animal-mnist`` package's data files.

S. Mohammadi, version 0.4, 2025. Images MIT. Each of the two files is a compressed pickle of one array. They are never
unpickled: once they are verified, the array's bytes are known to lie at a fixed place.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from saintprune.data.images import ImageFile, ImageFiles, mixed
from saintprune.data.packaged import PackagedImageData, PackagedImages, combined_sha256
from saintprune.data.sampling import stratified_sample

CLASSES = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")
IMAGES, SIDE = 10_000, 28
PIXELS, PIXELS_AT = "animal_data_version_3.gz", 150  # file, first byte of its array
LABELS, LABELS_AT = "animal_label_version_3.gz", 146
TEST_IMAGES = 100  # of each class


@dataclass(frozen=True)
class Silhouettes:
    """Images of one array by names such as ``bird/1017``, row 1017.

    Attributes:
        pixels: Bytes (n, h, w), gray.
        labels: Numbers (n).
    """

    pixels: np.ndarray
    labels: np.ndarray

    def opened(self, name: str) -> IO[bytes]:
        """Return an image as a file in memory, in Netpbm's format for gray images."""
        image = self.pixels[int(name.rpartition("/")[2])]
        return io.BytesIO(b"P5 %d %d 255\n" % image.shape[::-1] + image.tobytes())

    def distinct(self) -> list[ImageFile]:
        """Return the images in their order without later copies; the class is the stratum."""
        first: dict[bytes, ImageFile] = {}
        for row, (image, label) in enumerate(zip(self.pixels, self.labels.tolist(), strict=True)):
            kind = CLASSES[label]
            first.setdefault(image.tobytes(), ImageFile(f"{kind}/{row:04d}", label, kind))
        return list(first.values())


class Animals(PackagedImageData):
    """Which of ten animals: 8,716 training and 1,000 test images, 28 x 28 pixels, gray as RGB.

    The animals are white on black; zebras keep their stripes. Of 10,000 images 284 are exact copies of another one of
    their class. They are left out, so no image is in both splits, nor twice in one; near copies are not looked for.
    The test split has 100 images of each class and depends on their rows in the file alone.
    The folder `root` holds animal_data_version_3.gz and animal_label_version_3.gz.
    """

    name = "animals"
    licence = "MIT"
    classes = CLASSES

    def _split(self, *, test: bool, limit: int | None) -> ImageFiles:
        root = PACKAGE.checked(self.root)
        images = read(root)
        files = images.distinct()
        in_test = set(test_indices(files))
        chosen = [file for index, file in enumerate(files) if (index in in_test) == test]
        return ImageFiles(root, mixed(chosen, limit), self._require_transform(), opened=images.opened)


def read(root: Path) -> Silhouettes:
    """Return all 10,000 images; the files must be verified, as elsewhere the places of the arrays mean nothing."""
    pixels = np.frombuffer(_unpacked(root / PIXELS), np.uint8, IMAGES * SIDE * SIDE, PIXELS_AT)
    labels = np.frombuffer(_unpacked(root / LABELS), "<i8", IMAGES, LABELS_AT)
    return Silhouettes(pixels.reshape(IMAGES, SIDE, SIDE), labels)


def _unpacked(file: Path) -> bytes:
    return gzip.decompress(file.read_bytes())


def test_indices(files: Sequence[ImageFile]) -> list[int]:
    """Return the positions of the test split: equally many of each class, however many copies it lost."""
    chosen: list[int] = []
    for kind in CLASSES:
        own = [index for index, file in enumerate(files) if file.stratum == kind]
        sample = stratified_sample([kind] * len(own), [files[index].name for index in own], TEST_IMAGES)
        chosen.extend(own[index] for index in sample)
    return sorted(chosen)


def digest(root: Path) -> str:
    """Return the SHA-256 over the file of pixels and that of labels."""
    return combined_sha256((root / PIXELS, root / LABELS))


PACKAGE = PackagedImages(
    title="animal",
    package="animal-mnist",
    folder="data/Animal_MNIST",
    sha256="d2410b716ee4a863f4b0ddbd60c0bd40f35fe3fbe9b7b4461ab05cd5d689cdac",
    digest=digest,
)
