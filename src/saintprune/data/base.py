"""The shape that all data modules share: what they know of themselves, and how their loaders are made."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler

from saintprune.errors import SaintpruneError

Transform = Callable[[Any], Tensor]  # PIL RGB image -> float tensor (3, H, W)


class UnreadableImage(SaintpruneError):
    """One image cannot be decoded; the loader turns it into a report on all of them."""


@dataclass(frozen=True)
class Share:
    """One process's batches of a split: every `count`-th, beginning with number `index`."""

    index: int = 0
    count: int = 1

    def of(self, batches: BatchSampler) -> list[list[int]]:
        """Return the indices of the samples of each batch, none of which another process has.

        Raises:
            SaintpruneError: there are fewer batches than processes.
        """
        if self.count > 1 and len(batches) < self.count:
            raise SaintpruneError(
                f"hardware.devices is {self.count}, but there are only {len(batches)} batches to share out: lower it or"
                " hardware.batch_size"
            )
        return list(islice(batches, self.index, None, self.count))


WHOLE = Share()


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

    def test_dataloader(self, share: Share = WHOLE) -> DataLoader:
        """Return the loader of the test split, or of one process's share of its batches."""
        self.setup()
        assert self._test is not None
        return self._loader(self._test, share)

    def train_dataloader(self) -> DataLoader:
        """Return the loader of the training split, in the same order every time."""
        self.setup()
        if self._train is None:
            self._train = self.train_split()
        return self._loader(self._train)

    def _loader(self, dataset: Dataset, share: Share = WHOLE) -> DataLoader:
        batches = BatchSampler(SequentialSampler(dataset), self.batch_size, drop_last=False)  # pyright: ignore[reportArgumentType]
        options = {"pin_memory": torch.cuda.is_available(), **self._loader_options()}
        return CheckedLoader(
            dataset,
            batch_sampler=share.of(batches),
            num_workers=self.num_workers,
            generator=torch.Generator().manual_seed(0),  # else every pass would draw from torch's global state
            **options,
        )

    def _loader_options(self) -> dict[str, Any]:
        """Return what this kind of data tells its loaders beside the batches."""
        return {}

    def _require_transform(self) -> Transform:
        if self.transform is None:
            raise SaintpruneError(f"dataset {self.name}: no transform; pass the model's own (LoadedModel.transform)")
        return self.transform
