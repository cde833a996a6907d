"""Image files as a dataset, and what happens when some of them cannot be decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from saintprune.data.base import Transform, UnreadableImage
from saintprune.data.sampling import mixed_order, stratified_sample
from saintprune.errors import SaintpruneError

DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    Image.DecompressionBombError,
)  # Pillow raises them all
Opened = Callable[[str], Path | IO[bytes]]  # name of an image -> what Pillow opens
SHOWN = 5
SCAN_THREADS = 8


@dataclass(frozen=True)
class ImageFile:
    """One labelled image: its name below `ImageFiles.root`, its label, and the stratum it is sampled from."""

    name: str
    label: int
    stratum: str


class ImageFiles(Dataset):
    """Labelled image files in the given order; items are (tensor (3, H, W), label)."""

    def __init__(
        self,
        root: Path,
        files: Sequence[ImageFile],
        transform: Transform,
        hint: str = "",
        opened: Opened | None = None,
    ) -> None:
        """Keep the list; nothing is read before an item is asked for.

        Args:
            root: The folder that the names are relative to.
            files: The images.
            transform: PIL RGB image -> tensor (3, H, W).
            hint: What a user can do about broken images, for the error.
            opened: Finds an image by its name; None takes it for a file below `root`.
        """
        self.root = root
        self.files = tuple(files)
        self.transform = transform
        self.hint = hint
        self.opened = opened or root.joinpath

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return image and label.

        Raises:
            UnreadableImage: If the file cannot be decoded.
        """
        file = self.files[index]
        try:
            image = read_rgb(self.opened(file.name))
        except DECODE_ERRORS as error:
            raise UnreadableImage(f"{file.name} cannot be read: {error}") from None
        return self.transform(image), torch.tensor(file.label)

    def report(self) -> SaintpruneError:
        """Decode every image once and return an error that counts and names the broken ones."""
        broken = broken_images(self.opened, self.files)
        return SaintpruneError(describe_broken(broken, len(self), self.root) + self.hint)


def read_rgb(source: Path | IO[bytes]) -> Image.Image:
    """Return the fully decoded image as RGB."""
    with Image.open(source) as image:
        if image.mode == "P" and "transparency" in image.info:
            return image.convert("RGBA").convert("RGB")  # the direct way makes Pillow warn
        return image.convert("RGB")


def broken_images(opened: Opened, files: Sequence[ImageFile]) -> tuple[str, ...]:
    """Return the names of the images that cannot be decoded, in order; reads every one of them."""

    def is_broken(file: ImageFile) -> bool:
        try:
            read_rgb(opened(file.name))
        except DECODE_ERRORS:
            return True
        return False

    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        return tuple(file.name for file, broken in zip(files, pool.map(is_broken, files), strict=True) if broken)


def describe_broken(names: Sequence[str], total: int, root: Path) -> str:
    """Return one line such as ``3 of 200 images in data/val cannot be read: a.png, b.png, c.png``."""
    listed = ", ".join(names[:SHOWN])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} of {total} images in {root} cannot be read: {listed}{more}"


def mixed(files: Sequence[ImageFile], limit: int | None = None) -> list[ImageFile]:
    """Return the files in their fixed mixed order, cut to a stratified sample of `limit`."""
    names = [file.name for file in files]
    if limit is not None:
        chosen = stratified_sample([file.stratum for file in files], names, limit)
        files, names = [files[index] for index in chosen], [names[index] for index in chosen]
    return [files[index] for index in mixed_order(names)]
