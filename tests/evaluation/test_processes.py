"""Two real processes: they see each other, and one that fails ends the other with one line."""

import multiprocessing
import os

import pytest
import torch

import errands
from saintprune.errors import SaintpruneError
from saintprune.evaluation.processes import processes


def test_both_see_each_other():
    before = dict(os.environ)
    with processes(2, errands.prepare, "gather") as check:
        check()
        assert errands.gather() == [(0, "0"), (1, "1")]
    assert not multiprocessing.active_children() and not torch.distributed.is_initialized()
    assert dict(os.environ) == before


def test_one_process_needs_no_other():
    with processes(1, errands.prepare, "prepare") as check:
        check()
        assert not multiprocessing.active_children() and not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("kind", "count", "message"),
    [
        ("prepare", 2, "the process of device 1 failed: there is no such model"),
        ("refuse", 3, "the process of device 2 failed: 1 of 13 images cannot be read"),
        ("bug", 2, "the process of device 1 failed: IndexError: list index"),
        ("kill", 2, "the process of device 1 was killed by signal 9"),
    ],
)
def test_a_failure_is_one_line_and_nothing_hangs(kind, count, message):
    with pytest.raises(SaintpruneError, match=message) as error, processes(count, errands.prepare, kind):
        errands.gather()
    assert "\n" not in str(error.value)
    assert not multiprocessing.active_children() and not torch.distributed.is_initialized()


def test_a_mistake_here_ends_the_others():
    with pytest.raises(SaintpruneError, match="mine"), processes(2, errands.prepare, "gather"):
        raise SaintpruneError("mine")
    assert not multiprocessing.active_children()
