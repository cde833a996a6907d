"""What TensorBoard shows of a run: tokens and curves layer by layer (the step is the layer), pictures, the record."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from saintprune.reporting.logged import OWN, Logged, token_curves


def log(writer: Any, logged: Logged) -> None:
    """Log all that a run has to show.

    Args:
        writer: a `torch.utils.tensorboard.SummaryWriter`.
        logged: what to log.
    """
    for kind, arms in token_curves(logged.record).items():
        for arm, values in arms.items():
            _series(writer, f"tokens/{kind}_{arm}", values)
    for curves in logged.curves:
        network = "" if curves.network == OWN else f" ({curves.network})"
        for name, values in curves.values.items():
            _series(writer, f"curves {curves.part}/{name}{network}", values)
    for name, path in logged.pictures.items():
        with Image.open(path) as picture:
            writer.add_image(f"pictures/{name}", np.asarray(picture.convert("RGB")), dataformats="HWC")
    record = logged.path.read_text(encoding="utf-8")
    writer.add_text("record", "".join(f"    {line}\n" for line in record.splitlines()))


def _series(writer: Any, tag: str, values: Any) -> None:
    for layer, value in enumerate(values):
        writer.add_scalar(tag, value, layer)
