"""Corrections of a classifier (docs/correction.md) as files: one of safetensors for all looks of a plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from saintprune.config import config_file
from saintprune.correction import Correction
from saintprune.errors import SaintpruneError
from saintprune.files import write_atomically
from saintprune.models.checkpoint import file_sha256
from saintprune.plan import Plan

SUFFIX = ".safetensors"


def write(path: Path, plan: Plan) -> Path:
    """Write the corrections of all looks of a plan, so that the file is either whole or absent; return its path.

    Raises:
        SaintpruneError: it could not be written.
    """
    tensors, metadata = {}, {}
    for number, look in enumerate(plan.looks):
        assert look.correction is not None
        one = look.correction
        for name, tensor in (("weight", one.weight), ("bias", one.bias)):  # of its own, as the format wants it
            tensors[f"{number}.{name}"] = tensor.cpu().clone(memory_format=torch.contiguous_format)
        metadata |= {f"{number}.penalty": repr(one.penalty), f"{number}.images": str(one.images)}
    return write_atomically(path, save(tensors, metadata))


def corrected(plan: Plan, path: Path) -> Plan:
    """Return a plan with the corrections of a file.

    Raises:
        SaintpruneError: there is no such file, or it is of a plan with other looks.
    """
    return plan.corrected([_read(path, number) for number in range(len(plan.looks))])


def read(name: str, look: int, sha256: str) -> Correction:
    """Return the correction that a YAML file in `conf/pruning/` names.

    Args:
        name: of the file beside it.
        look: of the plan, 0-based.
        sha256: of the file, so that a run is known by what it holds.

    Raises:
        SaintpruneError: there is no such file, or another one than the YAML file was written with.
    """
    path = config_file(f"pruning/{name}")
    correction = _read(path, look)
    if file_sha256(str(path)) != sha256:
        raise SaintpruneError(f"{path} is not the file that was written with its pruning: calibrate it again")
    return correction


def check(pruning: Mapping[str, Any]) -> None:
    """Check that a pruning is still what its corrections were fitted for: stages and size as in the file it came from.

    Args:
        pruning: the config of a run's pruning; without corrections there is nothing to check.

    Raises:
        SaintpruneError: an override has changed it.
    """
    if not pruning.get("correction"):
        return
    name = pruning["correction"]["name"].removesuffix(SUFFIX)
    path = config_file(f"pruning/{name}.yaml")
    if not path.is_file():
        return  # what reads the correction says so
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    look: Mapping[str, Any] | None = pruning
    while look is not None:
        if written is None or any(look.get(key) != written.get(key) for key in ("stages", "resize")):
            raise SaintpruneError(
                f"pruning={name} has its classifier corrected for other stages or another size of images: fit another"
                " with calibration.correct=…, or leave it out with pruning.correction=null"
            )
        look, written = look.get("second"), written.get("second")


def name_in(pruning: dict[str, Any], path: Path, name: str) -> None:
    """Let the config of a pruning name a file of corrections, each look its own; changes `pruning` in place.

    Args:
        pruning: the config, with its `second` inside where it has one.
        path: the file.
        name: of the pruning.
    """
    look, node, sha256 = 0, pruning, file_sha256(str(path))
    while isinstance(node, dict):
        node["correction"] = {
            "_target_": "saintprune.models.corrections.read",
            "name": name + SUFFIX,
            "look": look,
            "sha256": sha256,
        }
        look, node = look + 1, node.get("second")


def _read(path: Path, look: int) -> Correction:
    try:
        with safe_open(path, "pt") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
            return Correction(
                weight=file.get_tensor(f"{look}.weight").clone(),  # it would else stay a view of the file
                bias=file.get_tensor(f"{look}.bias").clone(),
                penalty=float(metadata.get(f"{look}.penalty", math.nan)),
                images=int(metadata[f"{look}.images"]),
            )
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise SaintpruneError(
            f"{path} holds no correction for look {look} of a plan ({error}): calibrate with calibration.correct=…"
        ) from error
