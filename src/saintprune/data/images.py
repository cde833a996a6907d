"""Image files as a dataset, and what happens when some of them cannot be decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
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
SIXTEEN_BITS = ("PNG", "PPM")  # formats whose grey images of 16 bits Pillow may give as its mode I, of 32
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
            raise UnreadableImage(f"{file.name} cannot be read: {reason_of(error)}") from None
        return self.transform(image), torch.tensor(file.label)

    def report(self) -> SaintpruneError:
        """Decode every image once and return an error that counts and names the broken ones."""
        broken = broken_images(self.opened, self.files)
        return SaintpruneError(describe_broken(broken, len(self), self.root) + self.hint)


def read_rgb(source: Path | IO[bytes]) -> Image.Image:
    """Return the fully decoded image of a file as RGB.

    Raises:
        ValueError: If grey values cannot be made 8 bits; of broken files, any of `DECODE_ERRORS`.
    """
    with Image.open(source) as image:
        return as_rgb(image)


def as_rgb(image: Image.Image) -> Image.Image:
    """Return an image as RGB; grey ones of 16 bits keep the upper 8.

    Raises:
        ValueError: If grey values cannot be made 8 bits.
    """
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")  # the direct way makes Pillow warn
    return (_of_8_bits(image) if image.mode[0] in "IF" else image).convert("RGB")


def _of_8_bits(image: Image.Image) -> Image.Image:
    """Return a grey image of 16 or 32 bits as one of 8, of which `convert` would make white all above 255.

    Raises:
        ValueError: If values of 32 bits are not within 0..255, or are fractions within 0..1.
    """
    values = np.asarray(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in SIXTEEN_BITS):
        return Image.fromarray((values >> 8).astype(np.uint8))
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 255) or (image.mode == "F" and 0 < high <= 1):
        raise ValueError(f"grey values {low:g} to {high:g}, not 0 to 255: save it with 8 or 16 bits")
    return image


def reason_of(error: Exception) -> str:
    """Return why an image cannot be read, on one line, without the name that Pillow repeats."""
    if isinstance(error, UnidentifiedImageError):
        return "no known kind of image"
    return " ".join(str(error).split()) or type(error).__name__


def broken_images(opened: Opened, files: Sequence[ImageFile]) -> dict[str, str]:
    """Return the names of the images that cannot be decoded, in order, with why; reads every one of them."""

    def reason(file: ImageFile) -> str | None:
        try:
            read_rgb(opened(file.name))
        except DECODE_ERRORS as error:
            return reason_of(error)
        return None

    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        found = zip(files, pool.map(reason, files), strict=True)
        return {file.name: why for file, why in found if why is not None}


def describe_broken(broken: Mapping[str, str], total: int, root: Path) -> str:
    """Return one line such as ``3 of 200 images in data/val cannot be read: a.png (truncated), b.png, c.png``.

    Args:
        broken: Names with reasons, of which the first is told.
        total: Number of images.
        root: Where they are.
    """
    names = [f"{name} ({why})" if index == 0 else name for index, (name, why) in enumerate(broken.items())]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} of {total} images in {root} cannot be read: {', '.join(names[:SHOWN])}{more}"


def mixed(files: Sequence[ImageFile], limit: int | None = None) -> list[ImageFile]:
    """Return the files in their fixed mixed order, cut to a stratified sample of `limit`."""
    names = [file.name for file in files]
    if limit is not None:
        chosen = stratified_sample([file.stratum for file in files], names, limit)
        files, names = [files[index] for index in chosen], [names[index] for index in chosen]
    return [files[index] for index in mixed_order(names)]
