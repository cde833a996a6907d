"""Where figures go besides the record: CSV by default, Weights & Biases by choice."""

from __future__ import annotations

import os
from dataclasses import asdict
from netrc import netrc
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from saintprune.errors import SaintpruneError
from saintprune.reporting.records import RunRecord


def wandb_logger(save_dir: str, project: str = "saintprune", entity: str | None = None) -> Logger:
    """Return Lightning's W&B logger; offline, to be synced later, unless a key is present.

    Raises:
        SaintpruneError: wandb is not installed.
    """
    try:
        from lightning.pytorch.loggers import WandbLogger

        offline = not (os.environ.get("WANDB_API_KEY") or _key_in_netrc())
        Path(save_dir).mkdir(parents=True, exist_ok=True)
        return WandbLogger(project=project, entity=entity, save_dir=save_dir, offline=offline)
    except ModuleNotFoundError as error:
        raise SaintpruneError("logger=wandb needs wandb: pip install 'saintprune[wandb]'") from error


def log_record(logger: Logger, record: RunRecord) -> None:
    """Log a record's figures and config, and close the logger.

    Raises:
        SaintpruneError: the logger could not write.
    """
    try:
        logger.log_hyperparams(record.config)
        logger.log_metrics(flat_figures(asdict(record)))
        logger.finalize("success")
    except OSError as error:
        raise SaintpruneError(f"the record is written, but the logger failed: {error.strerror or error}") from error


def flat_figures(record: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers of a record's results as one level: `pruned/accuracy`, `delta/speedup_ci95/0`, …"""
    parts = (
        "baseline", "pruned", "delta", "benchmark", "agreement", "likelihood_agreement", "output_cosine",
        "selector_overhead",
    )  # fmt: skip
    found: dict[str, float] = {}
    for key, value in record.items():
        if not prefix and key not in (*parts, "num_samples"):
            continue
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            found |= flat_figures(value, f"{name}/")
        elif isinstance(value, (list, tuple)):
            found |= flat_figures({str(index): item for index, item in enumerate(value)}, f"{name}/")
        elif isinstance(value, (int, float)):
            found[name] = float(value)
    return found


def _key_in_netrc() -> bool:
    """Return whether ~/.netrc holds a W&B login."""
    try:
        return netrc().authenticators("api.wandb.ai") is not None
    except (OSError, SyntaxError):
        return False
