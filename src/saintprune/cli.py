"""The command line: `python run.py …` or `saintprune …`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from saintprune.config import config_dir, names_of, register
from saintprune.errors import SaintpruneError

ROOM = 256 * 1024  # bytes that a run's config, record and CSV log need at the least

register()


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")
def main(cfg: DictConfig) -> None:
    """Run one job: evaluate, benchmark, calibrate or analyze."""
    from saintprune.wiring import run  # torch and timm load only when a job really runs

    hydra_config = HydraConfig.get()
    sweep = Path(hydra_config.sweep.dir) if hydra_config.mode == RunMode.MULTIRUN else None
    try:
        run(cfg, Path(hydra_config.runtime.output_dir), names_of(hydra_config), sweep)
    except SaintpruneError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        if hydra_config.mode == RunMode.MULTIRUN:  # the other jobs go on; Hydra prints this message when they are done
            raise CompactHydraException(f"error: {error}") from None
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


class RunCallback(Callback):
    """Refuses a place where nothing can be written before a run begins; sums up a multirun when it ends."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the folder of a single run."""
        _require_room(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the folder of a sweep."""
        _require_room(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Gather the records under the sweep's folder."""
        from saintprune.reporting.sweep import summarise

        summarise(Path(config.hydra.sweep.dir))


def _require_room(folder: Path) -> None:
    """Exit with one line where Hydra would meet a full disk or a forbidden folder with a traceback."""
    probe = folder / ".room"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(bytes(ROOM))
        probe.unlink()
    except OSError as error:
        if probe.exists():
            probe.unlink()
        print(
            f"error: cannot write to {folder}: {error.strerror}; make room or choose another place with"
            " hydra.run.dir=DIR (hydra.sweep.dir=DIR for -m)",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
