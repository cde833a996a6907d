"""The shape that all data modules share: what they know of themselves, and how their loaders are made."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from saintprune.errors import SaintpruneError

Transform = Callable[[Any], Tensor]  # PIL RGB image -> float tensor (3, H, W)


class UnreadableImage(SaintpruneError):
    """One image cannot be decoded; the loader turns it into a report on all of them."""


class CheckedLoader(DataLoader):
    """A DataLoader whose first unreadable image ends in a report by the dataset, from workers too."""

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Yield batches; an `UnreadableImage` becomes what ``dataset.report()`` returns."""
        try:
            yield from super().__iter__()
        except UnreadableImage as error:
            report = getattr(self.dataset, "report", None)
            raise (report() if report is not None else SaintpruneError(str(error))) from None


class ImageData(LightningDataModule):
    """Base of all data modules.

    The order of both splits is fixed and mixed, so that every prefix and every batch is a fair sample.

    Attributes:
        name: The dataset's name in records.
        licence: The licence of the images, or None if unknown.
        classes: Names of the labels in order, or None for unlabelled data (every label is -1). Known after `setup`.
        broken: Test images that were left out because they cannot be read.
    """

    name: str = ""  # pyright: ignore[reportIncompatibleVariableOverride]  # always set here
    licence: str | None = None
    classes: tuple[str, ...] | None = None
    broken: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        transform: Transform | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
        input_size: tuple[int, int, int] | None = None,
        limit: int | None = None,
    ) -> None:
        """Keep the settings; no file is touched before `setup`.

        Args:
            transform: PIL RGB image -> tensor (3, H, W), the model's own.
            batch_size: Images per batch.
            num_workers: Worker processes per loader.
            input_size: (C, H, W) of the model; only synthetic images need it.
            limit: Number of test images, spread evenly over the labels; None is all.

        Raises:
            SaintpruneError: For a limit, a batch size or a number of workers that makes no sense.
        """
        super().__init__()
        for key, value, least in (
            ("limit", limit, 1),
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
        ):
            if value is not None and value < least:
                raise SaintpruneError(f"dataset.{key} is {value}; give {least} or more")
        self.transform = transform
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.input_size = input_size
        self.limit = limit
        self._train: Dataset | None = None
        self._test: Dataset | None = None

    @property
    def num_classes(self) -> int | None:
        """Number of labels, or None for unlabelled data."""
        return None if self.classes is None else len(self.classes)

    @abstractmethod
    def test_split(self) -> Dataset:
        """Return the test images in their fixed order, at most `limit`."""

    @abstractmethod
    def train_split(self) -> Dataset:
        """Return the training images in their fixed, mixed order."""

    def setup(self, stage: str = "test") -> None:
        """Find and check the test images once; the training split waits for its loader.

        Raises:
            SaintpruneError: If the images are not there, or are not the published ones.
        """
        if self._test is None:
            self._test = self.test_split()

    def test_dataloader(self) -> DataLoader:
        """Return the loader of the test split."""
        self.setup()
        assert self._test is not None
        return self._loader(self._test)

    def train_dataloader(self) -> DataLoader:
        """Return the loader of the training split, in the same order every time."""
        self.setup()
        if self._train is None:
            self._train = self.train_split()
        return self._loader(self._train)

    def _loader(self, dataset: Dataset) -> DataLoader:
        return CheckedLoader(
            dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(0),  # else every pass would draw from torch's global state
        )

    def _require_transform(self) -> Transform:
        if self.transform is None:
            raise SaintpruneError(f"dataset {self.name}: no transform; pass the model's own (LoadedModel.transform)")
        return self.transform
