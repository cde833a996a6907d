"""Peak memory of a piece of work."""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_M_MMAP_THRESHOLD = -3  # of glibc's mallopt


def peak_memory(work: Callable[[], object], device: torch.device) -> float | None:
    """Run the work and return by how many MiB its peak exceeded the memory held before.

    On CUDA from torch's allocator. On Linux CPUs from the resident-set high-water mark, which a process may reset,
    while the C library maps every large block by itself, so that freed memory really is free. None where neither is to
    be had.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    if device.type != "cpu" or not sys.platform.startswith("linux"):
        return None
    with _unpooled():
        work()  # whatever libraries keep for later is allocated here, not counted below
        try:
            _CLEAR.write_text("5")
        except OSError:
            return None
        before = _resident("VmRSS")
        work()
        return (_resident("VmHWM") - before) / 1024


@contextmanager
def _unpooled() -> Iterator[None]:
    """Let glibc map blocks of 64 KiB and more one by one; afterwards 32 MiB, where its own adaptation ends."""
    libc = ctypes.CDLL(ctypes.util.find_library("c"))
    mallopt, trim = getattr(libc, "mallopt", None), getattr(libc, "malloc_trim", None)
    if mallopt is None or trim is None:
        yield
        return
    mallopt(_M_MMAP_THRESHOLD, 64 * 1024)
    trim(0)
    try:
        yield
    finally:
        mallopt(_M_MMAP_THRESHOLD, 32 * 1024 * 1024)


def _resident(field: str) -> int:
    """Return a field of /proc/self/status, KiB."""
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))
