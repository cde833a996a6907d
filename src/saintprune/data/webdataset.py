"""Images in WebDataset shards: tar files in which ``KEY.jpg`` and ``KEY.cls``, its label as a number, are one sample.

The headers are read once, and then every image by its place in its file: so counts, order and sharing out are as exact
as those of a folder, which a stream cannot promise.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from saintprune.data.imagefolder import SUFFIXES
from saintprune.data.images import ImageFile
from saintprune.data.labelled import Listing
from saintprune.data.shards import Shards
from saintprune.errors import SaintpruneError


@dataclass(frozen=True)
class Place:
    """Where an image is: bytes `offset` to `offset` + `size` of a file."""

    shard: Path
    offset: int
    size: int


@dataclass(frozen=True)
class Places:
    """Images of tar files by their names."""

    known: dict[str, Place]

    def opened(self, name: str) -> IO[bytes]:
        """Return an image as a file in memory."""
        place = self.known[name]
        with open(place.shard, "rb") as file:
            file.seek(place.offset)
            return io.BytesIO(file.read(place.size))


class WebDataset(Shards):
    """Labelled images in tar files; the classes are numbers."""

    name = "webdataset"
    suffix = ".tar"

    def __init__(self, *, label: str = "cls", **settings: Any) -> None:
        """Keep the settings.

        Args:
            label: What ends the names of the files that hold labels, one number each.
            **settings: See `Shards`.
        """
        super().__init__(**settings)
        self.label = label

    def listing(self, key: str, value: str | None) -> Listing:
        """Return the images of all shards."""
        root, shards = self.shards(key, value)
        files: list[ImageFile] = []
        known: dict[str, Place] = {}
        for shard in shards:
            for name, (place, label) in self._samples(shard).items():
                full = f"{shard.relative_to(root).as_posix()}/{name}"
                files.append(ImageFile(full, label, f"{label:08d}"))
                known[full] = place
        classes = self.class_names([file.label for file in files], None, root)
        return Listing(root, classes, files, Places(known).opened)

    def _samples(self, shard: Path) -> dict[str, tuple[Place, int]]:
        """Return place and label of each image of a shard, by its name there.

        Raises:
            SaintpruneError: If it is no plain tar file, is cut off, an image has no label or a label no image, or a
                sample has two images.
        """
        places: dict[str, tuple[str, Place]] = {}
        labels: dict[str, int] = {}
        try:
            with tarfile.open(shard, "r:") as archive:
                for member in filter(tarfile.TarInfo.isfile, archive):
                    key, suffix = split_name(member.name)
                    if f".{suffix}" in SUFFIXES:
                        if key in places:
                            two = f"{places[key][0]} and {member.name}"
                            raise SaintpruneError(f"{shard} has two images of one sample, {two}: keep one of them")
                        places[key] = (member.name, Place(shard, member.offset_data, member.size))
                    elif suffix == self.label:
                        labels[key] = _number(archive.extractfile(member), f"{shard}/{member.name}")
        except (tarfile.TarError, OSError) as error:
            raise SaintpruneError(
                f"{shard} is no tar file, is compressed, or is cut off ({error}): unpack or fetch it again"
            ) from None
        alone = sorted(places.keys() ^ labels.keys())
        if alone or not places:
            what = f"{len(alone)} samples, {alone[0]} first, lack the one or the other" if alone else "there are none"
            raise SaintpruneError(f"{shard}: expected an image and a .{self.label} file for each sample, but {what}")
        return {name: (place, labels[key]) for key, (name, place) in places.items()}


def split_name(name: str) -> tuple[str, str]:
    """Return the sample's key and the lower-case suffix of a file: "a/b.seg.png" -> ("a/b", "seg.png")."""
    folder, slash, file = name.rpartition("/")
    key, _, suffix = file.partition(".")
    return folder + slash + key, suffix.lower()


def _number(file: IO[bytes] | None, where: str) -> int:
    content = file.read() if file is not None else b""
    try:
        return int(content)
    except ValueError:
        raise SaintpruneError(f"{where} holds {content[:20]!r}, but must hold the number of a class") from None
