"""Profiles check themselves and name what a machine lacks."""

import pytest
import torch

from families import make
from saintprune.errors import SaintpruneError
from saintprune.hardware import HardwareProfile, detect


def test_cpu():
    profile = HardwareProfile("cpu", precision="bf16-true")
    assert profile.device.type == "cpu" and profile.dtype == torch.bfloat16
    assert profile.trainer_arguments() == {"accelerator": "cpu", "devices": 1, "precision": "bf16-true"}
    assert "threads" in profile.device_name()


def test_detection_takes_what_is_given():
    profile = detect(batch_size=3)
    assert profile.batch_size == 3 and profile.name == "auto"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_missing_device_is_named():
    with pytest.raises(SaintpruneError, match="hardware=h100 needs cuda, but this machine has cpu"):
        _ = HardwareProfile("h100", "cuda").device


def test_share_of_peak():
    assert HardwareProfile("x", peak_tflops=2.0).share_of_peak(1e12) == 0.5
    assert HardwareProfile("x").share_of_peak(1e12) is None


def test_prepare_moves_to_the_precision():
    net, _, _ = make("vit")
    assert next(HardwareProfile("x", precision="bf16-true").prepare(net).parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accelerator": "tpu"}, "accelerator is 'tpu'"),
        ({"precision": "8-true"}, "precision is '8-true'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"devices": 0}, "devices is 0"),
    ],
)
def test_values_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        HardwareProfile("x", **options)
