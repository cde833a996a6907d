"""Peak memory of a piece of work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_memory(work: Callable[[], object], device: torch.device) -> float:
    """Run the work and return by how many MiB its peak exceeded the memory held before.

    On CUDA as torch's allocator tells it. Elsewhere the sum of all tensors that the work made and that were alive at
    once: exact and repeatable, but blind to what kernels use inside (a process's resident memory depends on its past).
    """
    if device.type != "cuda":
        with _LiveTensors() as live:
            work()
        return live.peak / 2**20
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


class _LiveTensors(TorchDispatchMode):
    """Follows the storages that operations make; `peak` is the largest number of bytes alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and note the storages that it made."""
        kwargs = kwargs or {}
        given = {storage._cdata for storage in _storages((args, kwargs))}
        result = func(*args, **kwargs)
        for storage in _storages(result):
            if storage._cdata not in given:  # a view or an in-place result makes nothing
                self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    """Return the storages of all tensors in nested containers."""
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
