"""Images in Parquet shards as the Hugging Face hub keeps them: a column of encoded images and one of labels."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from saintprune.data.images import ImageFile, mixed
from saintprune.data.labelled import Listing
from saintprune.data.sampling import name_hash
from saintprune.data.shards import Shards
from saintprune.errors import SaintpruneError, did_you_mean

GROUPS_KEPT = 2  # row groups in memory; a batch often spans two


@dataclass(frozen=True)
class Rows:
    """Images of Parquet files by names such as ``val-0.parquet#2:17``, row 17 of row group 2."""

    root: Path
    column: str

    def opened(self, name: str) -> IO[bytes]:
        """Return an image as a file in memory.

        Raises:
            OSError: If the row holds none, or the file cannot be read.
        """
        block, _, row = name.rpartition(":")
        shard, _, group = block.rpartition("#")
        cell = _row_group(self.root / shard, int(group), self.column)[int(row)].as_py()
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes):
            raise OSError("the row holds no encoded image")
        return io.BytesIO(content)


@dataclass(frozen=True)
class Content:
    """What a shard holds beside images: rows of each row group, labels, and names of the classes if it tells them."""

    rows: list[int]
    labels: list[Any]
    names: list[str] | None


class Parquet(Shards):
    """Labelled images in Parquet files.

    Rows of a row group stay together, as a file gives them all or none; groups, and rows within one, are mixed. So a
    batch is only as mixed as a row group is, which matters to methods that vote per batch.
    """

    name = "parquet"
    suffix = ".parquet"

    def __init__(self, *, image: str = "image", label: str = "label", **settings: Any) -> None:
        """Keep the settings.

        Args:
            image: The column of encoded images: bytes, or a struct with ``bytes``.
            label: The column of labels, numbers or strings.
            **settings: See `Shards`.
        """
        super().__init__(**settings)
        self.image = image
        self.label = label

    def listing(self, key: str, value: str | None) -> Listing:
        """Return the images of all shards."""
        root, shards = self.shards(key, value)
        read = [self._read(shard) for shard in shards]
        told = read[0].names
        for shard, other in zip(shards, read, strict=True):
            if other.names != told:
                raise SaintpruneError(f"{shard} names other classes than {shards[0]}: give shards of one data set")
        names = [
            f"{shard.relative_to(root).as_posix()}#{group}:{row}"
            for shard, content in zip(shards, read, strict=True)
            for group, count in enumerate(content.rows)
            for row in range(count)
        ]
        labels, told = _numbered([label for content in read for label in content.labels], told, root)
        classes = self.class_names(labels, told, root)
        files = [ImageFile(name, label, f"{label:08d}") for name, label in zip(names, labels, strict=True)]
        return Listing(root, classes, files, Rows(root, self.image).opened)

    def ordered(self, files: Sequence[ImageFile], limit: int | None = None) -> list[ImageFile]:
        """Return the files with those of a row group one after the other."""
        return sorted(mixed(files, limit), key=lambda file: name_hash(file.name.rpartition(":")[0]))

    def _read(self, shard: Path) -> Content:
        """Return what a shard holds beside images."""
        arrow, parquet = _pyarrow()
        try:
            with parquet.ParquetFile(shard) as file:
                schema = file.schema_arrow
                for column in (self.image, self.label):
                    if column not in schema.names:
                        raise SaintpruneError(
                            f"{shard} has no column {column!r}{did_you_mean(column, schema.names)}; it has"
                            f" {', '.join(schema.names)}: choose with dataset.image and dataset.label"
                        )
                labels = file.read(columns=[self.label], use_threads=False)[self.label].to_pylist()
                rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
                return Content(rows, labels, self._names(schema))
        except (arrow.ArrowException, OSError) as error:
            raise SaintpruneError(f"{shard} cannot be read as Parquet: {str(error).splitlines()[0]}") from None

    def _names(self, schema: Any) -> list[str] | None:
        """Return the names of the classes in the metadata that the datasets library writes."""
        stored = (schema.metadata or {}).get(b"huggingface")
        features = json.loads(stored).get("info", {}).get("features", {}) if stored else {}
        return features.get(self.label, {}).get("names")


def _numbered(labels: list[Any], names: list[str] | None, where: Path) -> tuple[list[int], list[str] | None]:
    """Return labels as numbers, and the names of the classes if they are known; words become their sorted numbers.

    Raises:
        SaintpruneError: If there are none, or they are neither numbers nor words.
    """
    kinds = {type(label) for label in labels}
    if kinds == {int}:
        return labels, names
    if kinds != {str}:
        found = ", ".join(sorted(kind.__name__ for kind in kinds)) or "none"
        raise SaintpruneError(f"{where}: labels must be whole numbers or words, but there are: {found}")
    words = sorted(set(labels))
    numbers = {word: number for number, word in enumerate(words)}
    return [numbers[label] for label in labels], words


@lru_cache(maxsize=GROUPS_KEPT)
def _row_group(shard: Path, group: int, column: str) -> Any:
    """Return a column of a row group."""
    arrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(shard) as file:
            return file.read_row_group(group, columns=[column], use_threads=False)[column]
    except arrow.ArrowException as error:
        raise OSError(str(error)) from error


def _pyarrow() -> tuple[Any, Any]:
    """Return the modules `pyarrow` and `pyarrow.parquet`.

    Raises:
        SaintpruneError: If they are not installed.
    """
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]  # an extra
        import pyarrow.parquet  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise SaintpruneError("dataset=parquet needs pyarrow: pip install 'saintprune[parquet]'") from error
    return pyarrow, pyarrow.parquet
