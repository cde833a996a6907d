"""What a run has to show besides the numbers of its record: curves over layers, and pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from saintprune.errors import SaintpruneError
from saintprune.reporting.records import RunRecord

Series = Mapping[str, Sequence[float]]
OWN = "own"  # the network itself, beside those with random weights
_KINDS = {
    "tokens": "tokens_per_layer",
    "image_tokens": "visual_tokens_per_layer",
    "tower_tokens": "tower_tokens_per_block",
}
_ARMS = {"unpruned": "baseline", "pruned": "pruned"}


@dataclass(frozen=True)
class LayerCurves:
    """The means over images, layer by layer, that task=analyze wrote of one network.

    Attributes:
        part: of the network, such as "vision" or "language/text-text".
        network: "own", or which network with random weights: "initialised 0", "shuffled 0".
        values: metric -> one number per layer; NaN where there is none.
    """

    part: str
    network: str
    values: Series


@dataclass(frozen=True)
class Logged:
    """What a logger is given.

    Attributes:
        record: of the run.
        path: of the record.
        curves: of the analysis; none of other tasks.
        pictures: name -> PNG.
    """

    record: RunRecord
    path: Path
    curves: Sequence[LayerCurves]
    pictures: Mapping[str, Path]

    @classmethod
    def of(cls, record: RunRecord, path: Path) -> Logged:
        """Return what there is beside a record: `curves/` and `figures/` of its folder."""
        figures = path.parent / "figures"
        found = {
            png.relative_to(figures).with_suffix("").as_posix(): png
            for png in sorted(figures.glob("**/*.png"))
        }  # fmt: skip
        return cls(record, path, read_curves(path.parent), found)


def read_curves(folder: Path) -> list[LayerCurves]:
    """Return the curves below a folder's `curves/`, the network's own first in each part.

    Raises:
        SaintpruneError: a file there cannot be read.
    """
    found = [_read(path) for path in sorted(folder.glob("curves/*/*/layers.csv"))]
    return sorted(found, key=lambda one: (one.part, one.network != OWN, one.network))


def token_curves(record: RunRecord) -> dict[str, dict[str, list[float]]]:
    """Return kind of tokens -> "unpruned" or "pruned" -> how many leave each layer; kinds that are known alone."""
    found: dict[str, dict[str, list[float]]] = {}
    for kind, key in _KINDS.items():
        for arm, name in _ARMS.items():
            if values := getattr(record, name).get(key):
                found.setdefault(kind, {})[arm] = values
    return found


def _read(path: Path) -> LayerCurves:
    """Read the means of one network."""
    try:
        part = json.loads((path.parent / "meta.json").read_text(encoding="utf-8"))["part"]
        with path.open(encoding="utf-8", newline="") as file:
            (_, *names), *rows = csv.reader(file)
        columns = zip(*(map(_number, cells) for _, *cells in rows), strict=True)
        return LayerCurves(part, path.parent.name.replace("-", " "), dict(zip(names, map(list, columns), strict=True)))
    except (OSError, ValueError, KeyError) as error:
        raise SaintpruneError(f"{path} holds no curves that can be read: {error}") from error


def _number(cell: str) -> float:
    return float(cell or "nan")
