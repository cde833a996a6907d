"""What datasets in shards have in common: many images in each of a few large files."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saintprune.data.labelled import LabelledImages
from saintprune.errors import SaintpruneError


class Shards(LabelledImages):
    """Base of the data modules whose path is a folder of shards, a pattern of them, or one."""

    suffix: str = ""

    def __init__(self, *, num_classes: int | None = None, **settings: Any) -> None:
        """Keep the settings.

        Args:
            num_classes: Number of classes, where the shards do not tell their names; None counts up to the largest
                label, which is too few where the last classes have no image.
            **settings: See `LabelledImages`.

        Raises:
            SaintpruneError: If `num_classes` is below 1.
        """
        super().__init__(**settings)
        if num_classes is not None and num_classes < 1:
            raise SaintpruneError(f"dataset.num_classes is {num_classes}; give 1 or more, or null")
        self.counted = num_classes

    def shards(self, key: str, value: str | None) -> tuple[Path, list[Path]]:
        """Return the folder above all shards, and the shards in the order of their names.

        Raises:
            SaintpruneError: If there is none.
        """
        if value is None:
            raise SaintpruneError(f"dataset.{key} is not set: give a folder of *{self.suffix}, a pattern, or one file")
        pattern = os.path.join(value, f"*{self.suffix}") if os.path.isdir(value) else value
        found = sorted(Path(name) for name in glob.glob(pattern, recursive=True))
        if not found:
            raise SaintpruneError(f"dataset.{key}: nothing is like {pattern} (relative to {Path.cwd()})")
        return Path(os.path.commonpath([shard.parent for shard in found])), found

    def class_names(self, labels: Sequence[int], names: Sequence[str] | None, where: Path) -> tuple[str, ...]:
        """Return the names of the classes: the given ones, else numbers.

        Args:
            labels: Of all images.
            names: As the shards tell them; None if they do not.
            where: The shards are.

        Raises:
            SaintpruneError: If a label has no class.
        """
        least, largest = min(labels), max(labels)
        if least < 0:
            raise SaintpruneError(f"{where}: an image has the label {least}: take a split with labels")
        count = len(names) if names is not None else self.counted or largest + 1
        if largest >= count:
            raise SaintpruneError(f"{where}: an image has the label {largest}, but there are {count} classes (0..)")
        return tuple(names if names is not None else map(str, range(count)))
