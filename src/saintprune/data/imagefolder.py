"""Images in class folders: ``path/<class>/<image>``."""

from __future__ import annotations

from pathlib import Path

from saintprune.data.images import ImageFile
from saintprune.data.labelled import LabelledImages, Listing
from saintprune.errors import SaintpruneError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}


class ImageFolder(LabelledImages):
    """Any images in class folders; classes are the sorted folder names."""

    name = "imagefolder"

    def listing(self, key: str, value: str | None) -> Listing:
        """Return the images of a folder."""
        if value is None:
            raise SaintpruneError(f"dataset.{key} is not set: give the folder that holds one folder per class")
        root = Path(value)
        if not root.is_dir():
            raise SaintpruneError(f"dataset.{key}: there is no folder {value} (relative to {Path.cwd()})")
        classes, files = list_images(root)
        return Listing(root, classes, files, root.joinpath)


def list_images(root: Path) -> tuple[tuple[str, ...], list[ImageFile]]:
    """Return the sorted class names and the images of every class folder in `root` (searched to any depth).

    Hidden folders and files are passed over, such as the previews that notebooks and macOS leave beside images.

    Raises:
        SaintpruneError: If there is no class folder, or one holds no image.
    """
    classes = tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != "."))
    if not classes:
        raise SaintpruneError(f"{root} has no class folders: expected {root}/<class>/<image>")
    files: list[ImageFile] = []
    empty: list[str] = []
    for label, name in enumerate(classes):
        inside = (path.relative_to(root) for path in sorted((root / name).rglob("*")))
        found = [path for path in inside if path.suffix.lower() in SUFFIXES and not _is_hidden(path)]
        files += [ImageFile(path.as_posix(), label, name) for path in found]
        empty += [] if found else [name]
    if empty:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        raise SaintpruneError(
            f"{root}: {len(empty)} of {len(classes)} class folders hold no images: {', '.join(empty[:5])}{more} "
            f"(images end in {', '.join(sorted(SUFFIXES))})"
        )
    return classes, files


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
