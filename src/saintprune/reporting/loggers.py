"""Where figures go besides the record: CSV by default, Weights & Biases or TensorBoard by choice."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict
from netrc import netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from saintprune.errors import SaintpruneError, one_line
from saintprune.reporting import tensorboard_run, wandb_run
from saintprune.reporting.logged import Logged
from saintprune.reporting.records import RunRecord
from saintprune.reporting.results import Row


def wandb_logger(
    save_dir: str, project: str = "saintprune", entity: str | None = None, group: str | None = None
) -> WandbLogger:
    """Return Lightning's W&B logger; offline, to be synced later, unless a key is present or WANDB_MODE is set.

    Args:
        save_dir: the files of the run lie below its `wandb`.
        project: of the run.
        entity: user or team; None is the default of the key.
        group: what the runs of a sweep share.

    Raises:
        SaintpruneError: wandb is not installed.
    """
    offline = "WANDB_MODE" not in os.environ and not key_present()
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    try:
        return WandbLogger(
            project=project,
            entity=entity,
            save_dir=save_dir,
            offline=offline,
            group=group,
            settings={"quiet": True},
            id=secrets.token_hex(4),  # one of its own, whatever WANDB_RUN_ID and the seeds are: runs never merge
        )
    except ModuleNotFoundError as error:
        raise SaintpruneError("logger=wandb needs wandb: pip install 'saintprune[wandb]'") from error


def tensorboard_logger(save_dir: str) -> TensorBoardLogger:
    """Return Lightning's TensorBoard logger, which writes to `save_dir`/tensorboard.

    Raises:
        SaintpruneError: tensorboard is not installed.
    """
    try:
        return TensorBoardLogger(save_dir, name="", version="tensorboard")
    except ModuleNotFoundError as error:
        raise SaintpruneError("logger=tensorboard needs tensorboard: pip install 'saintprune[tensorboard]'") from error


def log_run(logger: Logger, logged: Logged) -> str | None:
    """Give a logger all that it takes of a run, and close it.

    Returns:
        Why it failed, in one line; None where it did not. The record is a file already: nothing is lost by that.
    """
    return _failure(lambda: _hand_over(logger, logged))


def log_sweep(records: Sequence[RunRecord], rows: Sequence[Row], table: Path, figure: Path | None) -> str | None:
    """Log what the runs of a sweep found to W&B, if they were logged there: a run of its own in their group.

    Args:
        records: of the sweep.
        rows: one per record.
        table: the rows as CSV, in the folder of the sweep.
        figure: PNG of the sweep.

    Returns:
        Why it failed, in one line; None where it did not.
    """
    loggers = [record.config.get("logger") or {} for record in records]
    chosen = next((one for one in loggers if one.get("_target_") == f"{__name__}.wandb_logger"), None)
    if chosen is None:
        return None
    folder, pictures = table.parent, {} if figure is None else {"sweep": figure}

    def hand_over() -> None:
        group = chosen.get("group") or group_of(folder)
        logger = wandb_logger(str(folder), chosen["project"], chosen["entity"], group)
        wandb_run.log_comparison(logger.experiment, rows, table, pictures)

    return _failure(hand_over)


def group_of(sweep: Path) -> str:
    """Return what the runs of a sweep are grouped by: the last two parts of its folder, by default date and time."""
    return "/".join(sweep.resolve().parts[-2:])


def shows_pictures(logger: Logger) -> bool:
    """Return whether a logger can show pictures, so that it is worth drawing them for it."""
    return isinstance(logger, WandbLogger | TensorBoardLogger)


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


def key_present() -> bool:
    """Return whether WANDB_API_KEY is set, or ~/.netrc holds a login of W&B or of the server in WANDB_BASE_URL."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return bool(os.environ.get("WANDB_API_KEY") or (host and netrc().authenticators(host)))
    except (OSError, SyntaxError):
        return False


def _failure(action: Callable[[], None]) -> str | None:
    """Do what a logger does and end its W&B run; return why one of them failed, if it did."""
    try:
        failed = _why_not(action)
    finally:  # also where the user stops it
        not_closed = _why_not(wandb_run.close)
    return failed or not_closed


def _why_not(action: Callable[[], None]) -> str | None:
    """Do something; return why it failed, if it did."""
    try:
        action()
    except Exception as error:  # no network, a full disk, a key that is refused, …: none of them costs a record
        return one_line(error)
    return None


def _hand_over(logger: Logger, logged: Logged) -> None:
    """Log what every logger takes, then what only some can show."""
    logger.log_hyperparams(logged.record.config)
    logger.log_metrics(flat_figures(asdict(logged.record)))
    if isinstance(logger, WandbLogger):
        wandb_run.log(logger.experiment, logged)
    elif isinstance(logger, TensorBoardLogger):
        tensorboard_run.log(logger.experiment, logged)
    logger.finalize("success")
