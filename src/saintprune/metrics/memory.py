"""Peak memory of a piece of work."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory(work: Callable[[], object], device: torch.device) -> float | None:
    """Run the work and return by how many MiB its peak exceeded the memory held before.

    On CUDA from torch's allocator; on Linux CPUs from the process's resident-set high-water mark, which the kernel
    lets a process reset; None where neither can be read.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    if device.type != "cpu" or not _reset_high_water_mark():
        work()
        return None
    before = _resident("VmRSS")
    work()
    return (_resident("VmHWM") - before) / 1024


def _reset_high_water_mark() -> bool:
    """Give freed memory back to the system and reset VmHWM; False where that is not possible."""
    libc = ctypes.util.find_library("c")
    if libc is not None and hasattr(ctypes.CDLL(libc), "malloc_trim"):
        ctypes.CDLL(libc).malloc_trim(0)
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return _STATUS.exists()


def _resident(field: str) -> int:
    """Return a field of /proc/self/status, KiB."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")
