"""Hardware profiles: where a run takes place, in what precision, and what the machine could do at most."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from saintprune.errors import SaintpruneError

_DTYPES = {"32-true": torch.float32, "bf16-true": torch.bfloat16, "16-true": torch.float16}


@dataclass(frozen=True)
class HardwareProfile:
    """One machine, as a run sees it.

    Attributes:
        name: of the profile.
        accelerator: "cpu", "cuda" or "mps".
        devices: number of devices that Lightning evaluates on, with a process for each; everything else uses one.
        precision: "32-true", "bf16-true" or "16-true", as Lightning names them.
        batch_size: images per forward pass.
        num_workers: processes that load images.
        threads: CPU threads of torch; None leaves torch's choice.
        compile: compile the MLP of each block with `torch.compile` (dynamic shapes), pruned and unpruned alike.
        peak_tflops: the device's peak, dense, TFLOP/s; None if unknown.
        peak_precision: that the peak is of, as another has another; None if it is of `precision`, whichever that is.
    """

    name: str
    accelerator: str = "cpu"
    devices: int = 1
    precision: str = "32-true"
    batch_size: int = 16
    num_workers: int = 2
    threads: int | None = None
    compile: bool = False
    peak_tflops: float | None = None
    peak_precision: str | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.accelerator not in ("cpu", "cuda", "mps"):
            raise ValueError(f"accelerator is {self.accelerator!r}, but must be cpu, cuda or mps")
        if self.precision not in _DTYPES:
            raise ValueError(f"precision is {self.precision!r}, but must be one of {', '.join(_DTYPES)}")
        if self.peak_precision not in (None, *_DTYPES):
            raise ValueError(f"peak_precision is {self.peak_precision!r}, but must be one of {', '.join(_DTYPES)}")
        for name, least in (("batch_size", 1), ("devices", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least {least}")
        if self.accelerator == "mps" and self.devices > 1:
            raise ValueError(f"devices is {self.devices}, but mps is one device")

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights and activations."""
        return _DTYPES[self.precision]

    @property
    def device(self) -> torch.device:
        """The device of benchmarks and calibration.

        Raises:
            SaintpruneError: this machine has no such device, or fewer than `devices`.
        """
        present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not present[self.accelerator]:
            have = ", ".join(name for name, here in present.items() if here)
            raise SaintpruneError(
                f"hardware={self.name} needs {self.accelerator}, but this machine has {have}: choose hardware=auto"
            )
        if self.accelerator == "cuda" and self.devices > torch.cuda.device_count():
            raise SaintpruneError(
                f"hardware.devices is {self.devices}, but this machine has {torch.cuda.device_count()} GPUs: lower it"
            )
        return torch.device(self.accelerator)

    def prepare(self, net: Any) -> nn.Module:
        """Set the threads, keep memory (`keep_memory`) on CPUs, and move the network to the device and precision.

        Raises:
            SaintpruneError: it is to be compiled, but has no blocks with an MLP as timm's networks do.
        """
        if self.compile and not hasattr(net, "blocks"):
            raise SaintpruneError(
                f"hardware.compile=true is for timm networks, not for {type(net).__name__}: set it to false"
            )
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.accelerator == "cpu":
            keep_memory()
        net = net.to(self.device, self.dtype)
        if self.compile:
            for block in net.blocks:
                block.mlp.compile(dynamic=True)
        return net

    def trainer_arguments(self) -> dict[str, Any]:
        """Return what Lightning's Trainer is given."""
        accelerator = "gpu" if self.accelerator == "cuda" else self.accelerator
        found = {"accelerator": accelerator, "devices": self.devices, "precision": self.precision}
        if self.devices == 1:
            return found
        # the processes are there (evaluation.processes), and have their shares (evaluation.sharing); without the
        # environment, Lightning would take a job of a cluster's scheduler for one of its own processes
        strategy = DDPStrategy(cluster_environment=LightningEnvironment(), process_group_backend="gloo")
        return {**found, "strategy": strategy, "use_distributed_sampler": False}

    def device_name(self) -> str:
        """Return the device's name as the system tells it."""
        if self.accelerator == "cuda":
            return torch.cuda.get_device_name()
        return f"{_cpu_name()} ({torch.get_num_threads()} threads)" if self.accelerator == "cpu" else "Apple GPU"

    def share_of_peak(self, flops_per_second: float | None) -> float | None:
        """Return the share of the peak that a rate in FLOP/s is; None where either is unknown at this precision."""
        another = self.peak_precision not in (None, self.precision)
        if self.peak_tflops is None or flops_per_second is None or another:
            return None
        return flops_per_second / (self.peak_tflops * 1e12)


def detect(
    precision: str | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    threads: int | None = None,
    compile: bool | None = None,
) -> HardwareProfile:
    """Return the profile of this machine: CUDA, else Apple's GPU, else the CPU; what is given replaces its choice."""
    given: dict[str, Any] = {
        "precision": precision,
        "batch_size": batch_size,
        "num_workers": num_workers,
        "threads": threads,
        "compile": compile,
    }
    if torch.cuda.is_available():
        profile = HardwareProfile("auto", "cuda", precision="bf16-true", batch_size=128, num_workers=8)
    elif torch.backends.mps.is_available():
        profile = HardwareProfile("auto", "mps", batch_size=64, num_workers=4)
    else:
        profile = HardwareProfile("auto")
    return replace(profile, **{key: value for key, value in given.items() if value is not None})


def all_devices(
    devices: int | None = None,
    precision: str | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    threads: int | None = None,
    compile: bool | None = None,
) -> HardwareProfile:
    """Return the profile of all devices of this machine: its GPUs, else the CPU among processes.

    Args:
        devices: how many; None is every GPU, or 2 processes without any.
        precision: see `HardwareProfile`, as all of what follows; None leaves the choice to `detect`.
        batch_size: of each process.
        num_workers: of each process.
        threads: of each process; None deals out those that torch would take.
        compile: the blocks' MLPs.
    """
    profile = detect(precision, batch_size, num_workers, threads, compile)
    if devices is None:
        devices = torch.cuda.device_count() if profile.accelerator == "cuda" else 2
    if threads is None and profile.accelerator == "cpu":
        threads = max(1, torch.get_num_threads() // max(1, devices))
    return replace(profile, name="ddp", devices=devices, threads=threads)


def keep_memory() -> bool:
    """Let glibc keep the memory that this process frees, in place of giving it back; return whether it does.

    Else large tensors are mapped anew in every pass and touched page by page: a twentieth of a ViT's pass, more or less
    by what the process did before, so that the same speed-up is 2.9 before an evaluation and 2.6 after it. Other
    allocators are left alone.
    """
    trim_threshold, mmap_max = -1, -4  # mallopt(3)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1))


def _cpu_name() -> str:
    """Return the CPU's model name."""
    capability = torch.backends.cpu.get_cpu_capability()
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names else 'CPU'} {capability}"
