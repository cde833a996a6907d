"""ELPV as questions: which type of cell an image shows, and whether it is defective. See `saintprune.data.elpv`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saintprune.data.elpv import DEFECTIVE_ABOVE, PACKAGE, Cell, Elpv, read_labels, test_indices
from saintprune.data.images import ImageFile, mixed
from saintprune.data.vqa import VQAData, VQASample, VQASamples, mixed_samples

QUESTIONS = {
    "type": "Is this solar cell monocrystalline or polycrystalline? Answer with one word.",
    "defect": "Is this solar cell defective? Answer yes or no.",
}
CANDIDATES = {"type": ("monocrystalline", "polycrystalline"), "defect": ("yes", "no")}


class ElpvVQA(VQAData):
    """Two questions about each of 1,968 training and 656 test images, with the split and the labels of `Elpv`."""

    name = "elpv_vqa"
    licence = Elpv.licence

    def __init__(self, *, root: str | None = None, **settings: Any) -> None:
        """Keep the settings.

        Args:
            root: The folder that holds labels.csv and images/; None finds the installed package's.
            **settings: See `VQAData`; ``limit`` counts images, each of which brings two questions.
        """
        super().__init__(**settings)
        self.root = root

    def test_split(self) -> VQASamples:
        """Return the questions about the 656 test images, or about `limit` of them."""
        return self._split(test=True, limit=self.limit)

    def train_split(self) -> VQASamples:
        """Return the questions about the 1,968 training images."""
        return self._split(test=False, limit=None)

    def _split(self, *, test: bool, limit: int | None) -> VQASamples:
        root = PACKAGE.checked(self.root)
        cells = split_cells(root, test=test, limit=limit)
        return VQASamples(root, mixed_samples([question(cell, kind) for cell in cells for kind in QUESTIONS]))


def split_cells(root: Path, *, test: bool, limit: int | None = None) -> list[Cell]:
    """Return the cells of a split in their fixed mixed order, cut to a stratified sample of `limit`."""
    cells = read_labels(root)
    in_test = set(test_indices(cells))
    chosen = {cell.name: cell for index, cell in enumerate(cells) if (index in in_test) == test}
    order = mixed([ImageFile(cell.name, 0, cell.stratum) for cell in chosen.values()], limit)
    return [chosen[file.name] for file in order]


def answer(cell: Cell, kind: str) -> str:
    """Return the right answer to the question of this kind about a cell."""
    if kind == "type":
        return "monocrystalline" if cell.kind == "mono" else "polycrystalline"
    return "yes" if cell.probability > DEFECTIVE_ABOVE else "no"


def question(cell: Cell, kind: str) -> VQASample:
    """Return the question of this kind about a cell."""
    return VQASample(
        name=f"{cell.name} {kind}",
        images=(cell.name,),
        question=QUESTIONS[kind],
        answers=(answer(cell, kind),),
        candidates=CANDIDATES[kind],
        kind=kind,
    )
