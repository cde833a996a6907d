"""The curves of one part of a model: what a trace collects, and what stages and plots read."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saintprune.errors import SaintpruneError
from saintprune.files import write_atomically

LAYERS, IMAGES, HISTOGRAMS, META = "layers.csv", "images.csv", "histograms.csv", "meta.json"


@dataclass(frozen=True, eq=False)
class Curves:
    """Per-layer summaries of the tokens of one part of a model.

    Attributes:
        part: "vision", "language/vision-vision", "language/text-text" or "language/vision-text"; of a decoder alone
            "language".
        layers: number of layers L.
        values: metric -> [images, L] float64, one summary per image (of a decoder: per prompt) and layer; NaN where
            an image has none, such as a prompt without an image.
        histograms: name -> [L, bins] int64, counts over all images.
        edges: name -> [bins + 1] float64, the edges of the bins of the histogram of that name.
        meta: model, dataset, seed and the like, JSON-ready.
    """

    part: str
    layers: int
    values: Mapping[str, Tensor]
    histograms: Mapping[str, Tensor] = field(default_factory=dict)
    edges: Mapping[str, Tensor] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the shapes."""
        shapes = {tuple(value.shape) for value in self.values.values()}
        if len(shapes) != 1 or any(len(shape) != 2 or shape[1] != self.layers for shape in shapes):
            raise ValueError(f"values have the shapes {sorted(shapes)}, but each must be [images, {self.layers}]")
        for name, counts in self.histograms.items():
            if len(self.edges.get(name, ())) != counts.shape[1] + 1 or len(counts) != self.layers:
                raise ValueError(f"histogram {name} must be [{self.layers}, bins], with bins + 1 edges")

    @property
    def images(self) -> int:
        """Number of images, of a decoder prompts."""
        return len(next(iter(self.values.values())))

    def means(self) -> dict[str, Tensor]:
        """Return metric -> [L]: the mean over the images that have it."""
        return {name: value.nanmean(0) for name, value in self.values.items()}

    def save(self, folder: Path | str) -> None:
        """Write layers.csv (means), images.csv (a row per image and layer), histograms.csv and meta.json.

        Args:
            folder: is made where it is missing; several parts need several folders.
        """
        folder = Path(folder)
        names = list(self.values)
        means = torch.stack(list(self.means().values()), -1)  # (l, m)
        rows = ((layer, *row) for layer, row in enumerate(means.tolist()))
        _write(folder / LAYERS, ["layer", *names], rows)
        _write(folder / IMAGES, ["image", "layer", *names], self._image_rows())
        _write(folder / HISTOGRAMS, ["histogram", "layer", "low", "high", "count"], self._histogram_rows())
        head = {"part": self.part, "layers": self.layers, "images": self.images, **self.meta}
        write_atomically(folder / META, json.dumps(head, indent=2, ensure_ascii=False) + "\n")

    def _image_rows(self) -> Iterator[Sequence[float]]:
        values = torch.stack(list(self.values.values()), -1)  # (i, l, m)
        for image, layers in enumerate(values):
            for layer, row in enumerate(layers.tolist()):
                yield (image, layer, *row)

    def _histogram_rows(self) -> Iterator[Sequence[Any]]:
        for name, counts in self.histograms.items():
            edges = self.edges[name].tolist()
            for layer, row in enumerate(counts.tolist()):
                for bin_, count in enumerate(row):
                    yield (name, layer, edges[bin_], edges[bin_ + 1], count)

    @classmethod
    def load(cls, folder: Path | str) -> Curves:
        """Read what `save` wrote; values have nine digits.

        Raises:
            SaintpruneError: the folder lacks a file, or one of them cannot be read.
        """
        folder = Path(folder)
        try:
            meta = json.loads((folder / META).read_text(encoding="utf-8"))
            part, layers, images = meta.pop("part"), meta.pop("layers"), meta.pop("images")
            header, rows = _read(folder / IMAGES)
            table = torch.tensor([[float(cell or "nan") for cell in row[2:]] for row in rows], dtype=torch.float64)
            table = table.view(images, layers, len(header) - 2)
            values = {name: table[..., number].clone() for number, name in enumerate(header[2:])}
            histograms, edges = _histograms(_read(folder / HISTOGRAMS)[1], layers)
            return cls(part, layers, values, histograms, edges, meta)
        except (OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
            raise SaintpruneError(
                f"{folder} holds no curves that can be read ({error}): give a folder that task=analyze wrote"
            ) from error


def _histograms(rows: list[list[str]], layers: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the histograms and edges of a table (histogram, layer, low, high, count) in its order."""
    counts: dict[str, list[int]] = {}
    edges: dict[str, list[float]] = {}
    for name, layer, low, high, count in rows:
        counts.setdefault(name, []).append(int(count))
        if int(layer) == 0:
            edges.setdefault(name, [float(low)]).append(float(high))
    return (
        {name: torch.tensor(found).view(layers, -1) for name, found in counts.items()},
        {name: torch.tensor(found, dtype=torch.float64) for name, found in edges.items()},
    )


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file; floats have nine digits, which is what float32 holds, and NaN is an empty cell."""
    lines = [",".join(header)]
    lines += [",".join(_cell(value) for value in row) for row in rows]
    write_atomically(path, "\n".join(lines) + "\n")


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return "" if value != value else format(value, ".9g")


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows
