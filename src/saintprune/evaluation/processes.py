"""Further processes that help this one to score, one per device: started, watched, and ended whatever happens.

Lightning's own launcher runs the whole program once more for each device, which neither a sweep nor a notebook bears,
and leaves the others waiting where one fails. Here one process alone times, prints and writes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import distributed

from saintprune.errors import SaintpruneError, one_line

HOST = "127.0.0.1"
GRACE = 5.0  # seconds that a process gets to say why it failed, or to end
SETTLE = 0.5  # seconds until all that fail because of one have failed
Prepare = Callable[..., Callable[[], Any]]


@dataclass(frozen=True)
class Helper:
    """Another process: its rank, and where it tells that it is ready (None) or when and why it failed."""

    rank: int
    process: BaseProcess
    pipe: Connection

    @property
    def signs(self) -> list[Any]:
        """What to wait for: news, or the end."""
        return [self.pipe, self.process.sentinel]

    def failure(self) -> tuple[float, str] | None:
        """Return when it failed, 0 where it was killed, and why; None where it is ready, at work or done."""
        if not wait(self.signs, 0):
            return None
        try:
            told = self.pipe.recv() if self.pipe.poll() else ()
        except (EOFError, OSError):
            told = ()
        if told is None:
            return None
        if told:
            return told
        self.process.join(GRACE)
        return None if self.process.exitcode == 0 else (0.0, _ended(self.process))


@contextmanager
def processes(count: int, prepare: Prepare, *arguments: Any, cuda: bool = False) -> Iterator[Callable[[], None]]:
    """Let `count` - 1 further processes work on a task while this one, the first, does its own part in the body.

    Each calls ``prepare(*arguments)``, which builds what it needs, and when all are prepared what that returned. Inside
    the body and there, `torch.distributed` connects all of them (gloo, also between GPUs: what they exchange is small,
    and it notices a process that is gone).

    Args:
        count: of processes, this one included; with 1 the body simply runs.
        prepare: a function of a module.
        arguments: of it; they must pickle.
        cuda: whether each process has the GPU of its rank.

    Yields:
        A function that raises if one of the others has failed.

    Raises:
        SaintpruneError: one of the others failed.
    """
    if count == 1:
        yield lambda: None
        return
    store = distributed.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    helpers = [_start(rank, count, store.port, cuda, prepare, arguments) for rank in range(1, count)]
    done = False
    try:
        for helper in helpers:
            wait(helper.signs)
            _check([helper])
        with _connected(store, 0, count):
            yield lambda: _check(helpers)
        done = True
    except RuntimeError:  # what gloo raises where a process is gone
        wait([sign for helper in helpers for sign in helper.signs], GRACE)
        time.sleep(SETTLE)
        _check(helpers)
        raise
    finally:
        for helper in helpers:
            _end(helper.process, GRACE if done else 0.0)


def first_is_there() -> None:
    """Raise in a further process whose first one is gone, killed for example, so that it does not go on alone.

    Raises:
        SaintpruneError: it is gone.
    """
    first = multiprocessing.parent_process()
    if first is not None and not first.is_alive():
        raise SaintpruneError("the first process is gone")


def _check(helpers: list[Helper]) -> None:
    """Raise if one has failed; of several the first, as the others fail because of it."""
    failures = [(*failure, helper.rank) for helper in helpers if (failure := helper.failure()) is not None]
    if failures:
        _, reason, rank = min(failures)
        raise SaintpruneError(f"hardware.devices: the process of device {rank} {reason}")


def _start(rank: int, count: int, port: int, cuda: bool, prepare: Prepare, arguments: tuple[Any, ...]) -> Helper:
    """Start a process; it is new, not a fork, as a fork of one with threads or CUDA may hang."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_help, args=(rank, count, port, cuda, there, prepare, arguments))
    process.start()
    there.close()  # so that the pipe ends with the process
    return Helper(rank, process, here)


def _help(
    rank: int, count: int, port: int, cuda: bool, pipe: Connection, prepare: Prepare, arguments: tuple[Any, ...]
) -> None:
    """Do one process's part; the first process speaks for it, and ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    with _telling(pipe):
        if cuda:
            torch.cuda.set_device(rank)
        work = prepare(*arguments)
        pipe.send(None)
    with _connected(distributed.TCPStore(HOST, port), rank, count), _telling(pipe):
        work()


@contextmanager
def _telling(pipe: Connection) -> Iterator[None]:
    """Tell the first process of an error, and end."""
    try:
        yield
    except Exception as error:
        with suppress(OSError):  # the first process may be gone
            pipe.send((time.time(), f"failed: {one_line(error)}"))
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.exit(1)


@contextmanager
def _connected(store: distributed.TCPStore, rank: int, count: int) -> Iterator[None]:
    """Connect the processes, and tell Lightning that they are there and which one this is."""
    before = {name: os.environ.get(name) for name in ("LOCAL_RANK", "OMP_NUM_THREADS")}
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=count)
    os.environ |= {"LOCAL_RANK": str(rank), "OMP_NUM_THREADS": str(torch.get_num_threads())}  # else Lightning sets both
    try:
        yield
    finally:
        distributed.destroy_process_group()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _end(process: BaseProcess, seconds: float) -> None:
    """End a process that has some seconds to do so by itself."""
    process.join(seconds)
    process.terminate()
    process.join(GRACE)
    process.kill()
    process.join()


def _ended(process: BaseProcess) -> str:
    """Return how a process ended that could not say why."""
    code = process.exitcode
    if code is not None and code < 0:
        return f"was killed by signal {-code} (9 is often a lack of memory: fewer hardware.devices need less)"
    return f"ended with code {code} and gave no reason"
