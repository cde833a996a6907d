"""ELPV: electroluminescence images of solar cells, from the ``elpv-dataset`` package's data files.

Buerhop-Lutz et al., "A Benchmark for Visual Identification of Defective Solar Cells in Electroluminescence Imagery",
EU PVSEC 2018; Deitsch et al., "Automatic classification of defective photovoltaic module cells in
electroluminescence images", Solar Energy 185, 2019. Images CC BY-NC-SA 4.0.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from saintprune.data.images import ImageFile, ImageFiles, mixed
from saintprune.data.packaged import PackagedImageData, PackagedImages
from saintprune.data.sampling import stratified_sample

TEST_IMAGES = 656  # a quarter of 2,624
DEFECTIVE_ABOVE = 0.5  # defect probability; the labels are 0, 1/3, 2/3 and 1


@dataclass(frozen=True)
class Cell:
    """One row of labels.csv: the file's name, the defect probability, and the cell type (mono or poly)."""

    name: str
    probability: float
    kind: str

    @property
    def stratum(self) -> str:
        """Cell type and probability, which the split keeps in proportion."""
        return f"{self.kind} {self.probability:.3f}"


class Elpv(PackagedImageData):
    """Functional or defective: 1,968 training and 656 test images, 300 x 300 pixels, gray shown as RGB.

    A cell is defective iff its defect probability is above 0.5. The split is stratified by cell type and probability
    and depends on the file names alone.
    The folder `root` holds labels.csv and images/.
    """

    name = "elpv"
    licence = "CC BY-NC-SA 4.0"
    classes = ("functional", "defective")

    def _split(self, *, test: bool, limit: int | None) -> ImageFiles:
        root = PACKAGE.checked(self.root)
        chosen, cells = [], read_labels(root)
        in_test = set(test_indices(cells))
        for index, cell in enumerate(cells):
            if (index in in_test) == test:
                chosen.append(ImageFile(cell.name, int(cell.probability > DEFECTIVE_ABOVE), cell.stratum))
        return ImageFiles(root, mixed(chosen, limit), self._require_transform())


def test_indices(cells: list[Cell]) -> list[int]:
    """Return the rows of the test split."""
    return stratified_sample([cell.stratum for cell in cells], [cell.name for cell in cells], TEST_IMAGES)


def read_labels(root: Path) -> list[Cell]:
    """Return the rows of labels.csv in their order."""
    rows = (line.split() for line in (root / "labels.csv").read_text().splitlines())
    return [Cell(name, float(probability), kind) for name, probability, kind in rows]


def digest(root: Path) -> str:
    """Return the SHA-256 over labels.csv and the images that it lists, in its order."""
    combined = hashlib.sha256((root / "labels.csv").read_bytes())
    for cell in read_labels(root):
        combined.update(hashlib.sha256((root / cell.name).read_bytes()).digest())
    return combined.hexdigest()


PACKAGE = PackagedImages(
    title="ELPV",
    package="elpv-dataset",
    folder="data",
    sha256="253d146c8ce0e1fec8087ce6b98b88d70010387b712200d7c501f5ea332cf1cf",
    digest=digest,
)
