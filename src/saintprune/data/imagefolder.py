"""Images in class folders: ``path/<class>/<image>``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from saintprune.data.base import ImageData
from saintprune.data.images import ImageFile, ImageFiles, broken_images, describe_broken, mixed
from saintprune.errors import SaintpruneError, did_you_mean

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}
ON_BROKEN = ("error", "skip")


class ImageFolder(ImageData):
    """Any images in class folders; classes are the sorted folder names."""

    def __init__(
        self,
        *,
        path: str | None = None,
        train_path: str | None = None,
        on_broken: str = "error",
        name: str = "imagefolder",
        licence: str | None = None,
        **settings: Any,
    ) -> None:
        """Keep the settings.

        Args:
            path: Folder of the test images.
            train_path: Folder of the training images with the same classes; only calibration and probes need it.
            on_broken: ``error`` stops at an image that cannot be read; ``skip`` decodes the whole split once in
                advance, leaves such images out, lists them in `broken` and warns.
            name: The name in records.
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
        self.name = name
        self.licence = licence
        self.path = path
        self.train_path = train_path
        self.on_broken = on_broken

    def test_split(self) -> ImageFiles:
        """Return the test images, or `limit` of those that can be read."""
        root = self._folder("path", self.path)
        self.classes, files = list_images(root)
        files, self.broken = self._readable(root, files)
        return self._images(root, mixed(files, self.limit))

    def train_split(self) -> ImageFiles:
        """Return the training images."""
        root = self._folder("train_path", self.train_path)
        classes, files = list_images(root)
        if classes != self.classes:
            differing = sorted(set(classes) ^ set(self.classes or ()))[:5]
            raise SaintpruneError(
                f"dataset.train_path {root} has other classes than dataset.path {self.path}: {', '.join(differing)}"
            )
        files, _ = self._readable(root, files)
        return self._images(root, mixed(files))

    def _folder(self, key: str, value: str | None) -> Path:
        if value is None:
            raise SaintpruneError(f"dataset.{key} is not set: give the folder that holds one folder per class")
        if not Path(value).is_dir():
            raise SaintpruneError(f"dataset.{key}: there is no folder {value} (relative to {Path.cwd()})")
        return Path(value)

    def _readable(self, root: Path, files: list[ImageFile]) -> tuple[list[ImageFile], tuple[str, ...]]:
        if self.on_broken == "error":
            return files, ()
        broken = broken_images(root, files)
        if broken:
            warnings.warn(f"{describe_broken(broken, len(files), root)}; they are left out", stacklevel=4)
        if len(broken) == len(files):
            raise SaintpruneError(f"{describe_broken(broken, len(files), root)}; none is left")
        left_out = set(broken)
        return [file for file in files if file.name not in left_out], broken

    def _images(self, root: Path, files: list[ImageFile]) -> ImageFiles:
        hint = "; mend or remove them, or leave them out on the record with dataset.on_broken=skip"
        return ImageFiles(root, files, self._require_transform(), hint)


def list_images(root: Path) -> tuple[tuple[str, ...], list[ImageFile]]:
    """Return the sorted class names and the images of every class folder in `root` (searched to any depth).

    Raises:
        SaintpruneError: If there is no class folder, or one holds no image.
    """
    classes = tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != "."))
    if not classes:
        raise SaintpruneError(f"{root} has no class folders: expected {root}/<class>/<image>")
    files: list[ImageFile] = []
    empty: list[str] = []
    for label, name in enumerate(classes):
        found = sorted(path for path in (root / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        files += [ImageFile(path.relative_to(root).as_posix(), label, name) for path in found]
        empty += [] if found else [name]
    if empty:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        raise SaintpruneError(
            f"{root}: {len(empty)} of {len(classes)} class folders hold no images: {', '.join(empty[:5])}{more} "
            f"(images end in {', '.join(sorted(SUFFIXES))})"
        )
    return classes, files
