"""Textile: simulated woven fabric, flawless or with a defect, from the ``conformal-clip-data`` package's data files.

Megahed et al., "Adapting OpenAI's CLIP Model for Few-Shot Image Inspection in Manufacturing Quality Control",
arXiv 2501.12596, 2025; simulated with spc4sts (Bui and Apley, Journal of Quality Technology 53, 2021). Images MIT.
"""

from __future__ import annotations

from pathlib import Path

from saintprune.data.images import ImageFile, ImageFiles, mixed
from saintprune.data.packaged import PackagedImageData, PackagedImages, combined_sha256
from saintprune.data.sampling import stratified_sample

IMAGES = {"nominal": 1000, "local": 500, "global": 500}  # folder, also the class -> images, numbered from 1
TEST_IMAGES = 500  # a quarter of 2,000


class Textile(PackagedImageData):
    """Nominal, locally or globally defective weave: 1,500 training and 500 test images, 250 x 250 pixels, gray as RGB.

    A local defect is a spot of some ten pixels; a global one is a weave with both parameters lowered by 5 %.
    The split is stratified by class and depends on the file names alone.
    The folder `root` holds nominal/, local/ and global/.
    """

    name = "textile"
    licence = "MIT"
    classes = tuple(IMAGES)

    def _split(self, *, test: bool, limit: int | None) -> ImageFiles:
        root = PACKAGE.checked(self.root)
        files = all_files()
        in_test = set(test_indices(files))
        chosen = [file for index, file in enumerate(files) if (index in in_test) == test]
        return ImageFiles(root, mixed(chosen, limit), self._require_transform())


def all_files() -> list[ImageFile]:
    """Return the 2,000 images, class by class; the class is the stratum."""
    return [
        ImageFile(f"{kind}/textile_{number:04d}.jpg", label, kind)
        for label, (kind, count) in enumerate(IMAGES.items())
        for number in range(1, count + 1)
    ]


def test_indices(files: list[ImageFile]) -> list[int]:
    """Return the positions of the test split."""
    return stratified_sample([file.stratum for file in files], [file.name for file in files], TEST_IMAGES)


def digest(root: Path) -> str:
    """Return the SHA-256 over the images in their order."""
    return combined_sha256(root / file.name for file in all_files())


PACKAGE = PackagedImages(
    title="textile",
    package="conformal-clip-data",
    folder="data/textile_images/simulated",
    sha256="a2abcfa29611f1d703597ed6a5448074683d19c45165a87e0108a2e319c4c7d8",
    digest=digest,
)
