"""How the processes of an evaluation share out the batches of a test set, and put their findings together again.

Whole batches are dealt out, not samples: a batch is the same one as in a single process, with the same padding and, for
a method that votes per batch, the same vote. So every score is that of one process, to the last digit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import lightning as L
import torch
from torch.utils.data import DataLoader

from saintprune.data.base import Share

Found = TypeVar("Found")


class SharedOut(L.LightningDataModule):
    """Another data module's test split, of which each process of the trainer gets its share."""

    def __init__(self, data: L.LightningDataModule) -> None:
        super().__init__()
        self.data: Any = data

    def test_dataloader(self) -> DataLoader:
        """Return the loader of this process.

        Raises:
            SaintpruneError: there are fewer batches than processes.
        """
        assert self.trainer is not None
        if self.trainer.world_size == 1:
            return self.data.test_dataloader()
        return self.data.test_dataloader(Share(self.trainer.global_rank, self.trainer.world_size))


class Watch(L.Callback):
    """Calls a function before every batch of a test, which raises where another process has failed."""

    def __init__(self, check: Callable[[], None]) -> None:
        self.check = check

    def on_test_batch_start(self, *arguments: Any, **keywords: Any) -> None:
        """Check."""
        self.check()


def run_test(module: L.LightningModule, data: L.LightningDataModule, **trainer: Any) -> None:
    """Pass the data's test split, or this process's share of it, through a module.

    Args:
        module: keeps what it finds.
        data: knows `base.Share`.
        **trainer: arguments of Lightning's Trainer.
    """
    with warnings.catch_warnings():
        # lightning 2.6 makes a LeafSpec for its loaders, which torch has deprecated; nothing that a user could mend
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        L.Trainer(
            logger=False, enable_checkpointing=False, enable_model_summary=False, inference_mode=True, **trainer
        ).test(module, datamodule=SharedOut(data), verbose=False)


def number_of(module: L.LightningModule, batch_idx: int) -> int:
    """Return the number in the whole test set of a process's batch."""
    return batch_idx * module.trainer.world_size + module.trainer.global_rank


def gathered(module: L.LightningModule, own: Sequence[Found]) -> list[Found]:
    """Return what all processes found, batch by batch in the order of the test set; every process gets all of it.

    Args:
        module: under test; its trainer knows the processes.
        own: what this process found in its batches, in their order.
    """
    count = module.trainer.world_size
    if count == 1:
        return list(own)
    parts: list[Any] = [None] * count
    torch.distributed.all_gather_object(parts, list(own))
    return [part[index] for index in range(len(parts[0])) for part in parts if index < len(part)]
