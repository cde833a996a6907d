"""What the processes of tests do: functions of a module, as another process imports them."""

import os
import signal
import time

import torch

from saintprune.errors import SaintpruneError


def prepare(kind):
    """Return the work of one process; "prepare" fails already here."""
    if kind == "prepare":
        raise SaintpruneError("there is no such model")
    return {"gather": gather, "refuse": refuse, "bug": bug, "kill": kill}[kind]


def gather():
    """Return what all processes are."""
    found = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, (torch.distributed.get_rank(), os.environ["LOCAL_RANK"]))
    return found


def refuse():
    """The last process raises while the others wait for it."""
    if torch.distributed.get_rank() < torch.distributed.get_world_size() - 1:
        return gather()
    time.sleep(0.2)
    raise SaintpruneError("1 of 13 images cannot be read")


def bug():
    raise IndexError("list index\nout of range")


def kill():
    os.kill(os.getpid(), signal.SIGKILL)
