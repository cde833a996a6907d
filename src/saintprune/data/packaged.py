"""Images that a Python package ships: where they are, and whether they are the published ones."""

from __future__ import annotations

import hashlib
import importlib.util
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saintprune.data.base import ImageData
from saintprune.data.images import ImageFiles
from saintprune.errors import SaintpruneError

REQUIREMENTS = "--no-deps --require-hashes -r requirements/assets.txt"


@dataclass(frozen=True)
class PackagedImages:
    """The images of one package in requirements/assets.txt; the package itself is never imported.

    Attributes:
        title: What messages call the images, such as ``ELPV``.
        package: The package as pip names it.
        folder: Where the images are, below the package's module.
        sha256: What `digest` must return.
        digest: Folder -> SHA-256 over its files; may raise OSError or ValueError.
    """

    title: str
    package: str
    folder: str
    sha256: str
    digest: Callable[[Path], str]

    def checked(self, root: str | None = None) -> Path:
        """Return the folder of images, the installed package's if `root` is None, with its files verified.

        Raises:
            SaintpruneError: If the package is not installed, or its files are not the published ones.
        """
        folder = self.find() if root is None else Path(root)
        self.verify(folder)
        return folder

    def find(self) -> Path:
        """Return the installed package's folder of images.

        Raises:
            SaintpruneError: If the package is not installed.
        """
        spec = importlib.util.find_spec(self.package.replace("-", "_"))
        root = Path(spec.origin).parent / self.folder if spec is not None and spec.origin else None
        if root is None or not root.is_dir():
            raise SaintpruneError(
                f"the {self.title} images (package {self.package}) are not installed; "
                f"run: pip install {REQUIREMENTS} (or: make demo)"
            )
        return root

    def verify(self, root: Path) -> None:
        """Check that `root` holds the published files, byte by byte.

        Raises:
            SaintpruneError: If it does not.
        """
        mend = f"reinstall them: pip install --force-reinstall {REQUIREMENTS}"
        try:
            got = self.digest(root)
        except (OSError, ValueError) as error:
            raise SaintpruneError(f"the {self.title} files in {root} are incomplete ({error}); {mend}") from error
        if got != self.sha256:
            raise SaintpruneError(
                f"the {self.title} files in {root} are not the published ones: "
                f"expected sha256 {self.sha256}, got {got}; {mend}"
            )


class PackagedImageData(ImageData):
    """Images of one package, of which `_split` makes a training and a test split."""

    def __init__(self, *, root: str | None = None, **settings: Any) -> None:
        """Keep the settings.

        Args:
            root: The folder of images; None finds the installed package's.
            **settings: See `ImageData`.
        """
        super().__init__(**settings)
        self.root = root

    def test_split(self) -> ImageFiles:
        """Return the test images, or `limit` of them."""
        return self._split(test=True, limit=self.limit)

    def train_split(self) -> ImageFiles:
        """Return the training images."""
        return self._split(test=False, limit=None)

    @abstractmethod
    def _split(self, *, test: bool, limit: int | None) -> ImageFiles:
        """Return the test images or the training images, or `limit` of them."""


def combined_sha256(files: Iterable[Path]) -> str:
    """Return the SHA-256 over the SHA-256 of every file, in the order given."""
    combined = hashlib.sha256()
    for file in files:
        combined.update(hashlib.sha256(file.read_bytes()).digest())
    return combined.hexdigest()
