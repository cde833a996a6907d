"""What labelled images have in common, wherever they are kept: splits, an order, and what happens to broken ones."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saintprune.data.base import ImageData
from saintprune.data.images import ImageFile, ImageFiles, Opened, broken_images, describe_broken, mixed
from saintprune.errors import SaintpruneError, did_you_mean

ON_BROKEN = ("error", "skip")


@dataclass(frozen=True)
class Listing:
    """The images of one place.

    Attributes:
        root: The folder that holds them, for messages.
        classes: Names of the labels in order.
        files: Every image, in an order that the place defines.
        opened: Finds an image by its name.
    """

    root: Path
    classes: tuple[str, ...]
    files: Sequence[ImageFile]
    opened: Opened


class LabelledImages(ImageData):
    """Base of the data modules of labelled images at a path of the user's."""

    def __init__(
        self,
        *,
        path: str | None = None,
        train_path: str | None = None,
        on_broken: str = "error",
        name: str | None = None,
        licence: str | None = None,
        **settings: Any,
    ) -> None:
        """Keep the settings.

        Args:
            path: Where the test images are.
            train_path: Where the training images with the same classes are; only calibration and probes need it.
            on_broken: ``error`` stops at an image that cannot be read; ``skip`` decodes the whole split once in
                advance, leaves such images out, lists them in `broken` and warns.
            name: The name in records; None is that of the class.
            licence: The licence in records.
            **settings: See `ImageData`.

        Raises:
            SaintpruneError: If `on_broken` is neither.
        """
        super().__init__(**settings)
        if on_broken not in ON_BROKEN:
            raise SaintpruneError(
                f"dataset.on_broken is {on_broken!r}{did_you_mean(on_broken, ON_BROKEN)}; give error or skip"
            )
        self.name = name or self.name
        self.licence = licence
        self.path = path
        self.train_path = train_path
        self.on_broken = on_broken

    @abstractmethod
    def listing(self, key: str, value: str | None) -> Listing:
        """Return the images at the place that `value`, under the config key dataset.`key`, names.

        Raises:
            SaintpruneError: If there are none, or they are not as they should be.
        """

    def ordered(self, files: Sequence[ImageFile], limit: int | None = None) -> list[ImageFile]:
        """Return the files in the order in which they are read, cut to a stratified sample of `limit`."""
        return mixed(files, limit)

    def test_split(self) -> ImageFiles:
        """Return the test images, or `limit` of those that can be read."""
        listing = self.listing("path", self.path)
        self.classes = listing.classes
        files, self.broken = self._readable(listing)
        return self._images(listing, self.ordered(files, self.limit))

    def train_split(self) -> ImageFiles:
        """Return the training images."""
        listing = self.listing("train_path", self.train_path)
        if listing.classes != self.classes:
            differing = sorted(set(listing.classes) ^ set(self.classes or ()))[:5]
            raise SaintpruneError(
                f"dataset.train_path {self.train_path} has other classes than dataset.path {self.path}: "
                f"{', '.join(differing)}"
            )
        files, _ = self._readable(listing)
        return self._images(listing, self.ordered(files))

    def _readable(self, listing: Listing) -> tuple[Sequence[ImageFile], tuple[str, ...]]:
        files = listing.files
        if self.on_broken == "error":
            return files, ()
        broken = broken_images(listing.opened, files)
        if broken:
            warnings.warn(f"{describe_broken(broken, len(files), listing.root)}; they are left out", stacklevel=4)
        if len(broken) == len(files):
            raise SaintpruneError(f"{describe_broken(broken, len(files), listing.root)}; none is left")
        return [file for file in files if file.name not in broken], tuple(broken)

    def _images(self, listing: Listing, files: Sequence[ImageFile]) -> ImageFiles:
        hint = "; mend or remove them, or leave them out on the record with dataset.on_broken=skip"
        return ImageFiles(listing.root, files, self._require_transform(), hint, listing.opened)
