"""The fused kernels, on the CPU by Triton's interpreter; on GPUs test_cuda.py runs them."""

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from saintprune import kernels

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@pytest.mark.parametrize("interpreted", [True, pytest.param(False, marks=NEEDS_CUDA)])
def test_they_do_what_plain_torch_does(interpreted):
    """In a process of its own, as Triton asks for its interpreter when it is imported."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "interpreted_kernels.py"]
    told = {"cwd": Path(__file__).parent, "env": os.environ | {"TRITON_INTERPRET": str(int(interpreted))}}
    done = subprocess.run(command, **told, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout + done.stderr


def test_activations_are_told_by_what_they_do():
    modules = [nn.GELU(), nn.GELU(approximate="tanh"), nn.SiLU(), nn.ReLU(inplace=True), nn.Tanh()]
    assert [kernels.activation_number(module) for module in modules] == [0, 1, 3, 4, None]
    assert kernels.activation_number(lambda x: x[::2]) is None


def test_where_they_cannot_be_built_one_warning_tells(monkeypatch):
    def fails(x):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(kernels, "variance", fails)
    monkeypatch.setattr(torch, "ones", lambda *shape, **how: None)
    device = torch.device("cuda", 0)
    for capability, warned in [((7, 5), False), ((9, 0), True)]:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda of, found=capability: found)
        kernels._built.cache_clear()
        with pytest.warns(UserWarning, match="C compiler") if warned else nullcontext():
            assert not kernels._built(device)
    assert not kernels._built(device)  # known by now
    kernels._built.cache_clear()


def test_cpus_and_gradients_take_the_plain_path():
    assert not kernels.usable(torch.ones(2, 2))
