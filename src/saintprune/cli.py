"""The command line: `python run.py …` or `saintprune …`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from saintprune.config import as_given, config_dir, names_of, refuse_overrides, register
from saintprune.errors import SaintpruneError, one_line
from saintprune.launching import refuse_launch, varied_keys

if TYPE_CHECKING:  # lightning takes its time
    from saintprune.reporting.sweep import Failure

ROOM = 256 * 1024  # bytes that a run's config, record and CSV log need at the least
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"  # which asks for no objectives

_running: list[Path] = []  # the folder of the multirun that this process has begun and not ended

register()


def job(cfg: DictConfig) -> tuple[float, ...] | None:
    """Run one job: evaluate, benchmark, calibrate or analyze; return its objectives where a search asks for them."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    if hydra_config.mode == RunMode.MULTIRUN:
        return _job_of_sweep(cfg, folder, hydra_config)
    from saintprune.wiring import run  # torch and timm load only when a job really runs

    try:
        run(cfg, folder, names_of(hydra_config))
    except SaintpruneError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        _fail(str(error))
    return None


def main() -> None:
    """Read the command line and do what it says."""
    try:
        refuse_overrides([word for word in sys.argv[1:] if word.startswith("~") or ("=" in word and word[0] != "-")])
    except SaintpruneError as error:
        _fail(str(error))
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(job)()
    except KeyboardInterrupt:
        _tell_how_to_go_on()
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except SystemExit as end:
        if end.code:
            _tell_how_to_go_on()
        raise


class RunCallback(Callback):
    """Refuses what cannot work before a run begins; sums up a multirun when it ends."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the folder of a single run."""
        _require_room(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check launcher, sweeper and folder of a sweep, and forget the failures of its last start."""
        from saintprune.reporting.sweep import forget_failures, keep_varied

        folder = Path(config.hydra.sweep.dir)
        try:
            refuse_launch(config.hydra.launcher, config.hydra.sweeper)
            _require_room(folder)
            forget_failures(folder)
            keep_varied(folder, varied_keys(config.hydra))
        except (SaintpruneError, OSError) as error:
            _fail(str(error))
        _running.append(folder)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Tell which jobs failed and gather the records under the sweep's folder; exit with 1 where a job failed, none
        could run, or the records cannot be gathered.
        """
        from saintprune.reporting.sweep import failures, summarise

        folder = Path(config.hydra.sweep.dir)
        try:
            found = failures(folder)
            _tell(found, varied_keys(config.hydra))
            recorded = summarise(folder)
        except Exception as error:  # Hydra would make a warning of it, and exit with 0
            _fail(f"the sweep in {folder} cannot be summed up: {one_line(error)}")
        if any(failure.fits for failure in found.values()) or (found and not recorded):
            sys.exit(1)
        _running.clear()


def _job_of_sweep(cfg: DictConfig, folder: Path, hydra_config: Any) -> tuple[float, ...] | None:
    """Run a job unless it is recorded; a failure is told when all jobs are done."""
    from saintprune.reporting.sweep import kept_varied
    from saintprune.wiring_sweep import Job, run_searched

    sweep = Path(hydra_config.sweep.dir)
    objectives = () if hydra_config.sweeper._target_ == BASIC_SWEEPER else tuple(cfg.objectives)
    names, overrides = names_of(hydra_config, kept_varied(sweep)), as_given(hydra_config.overrides.task)
    return run_searched(Job(cfg, names, overrides, folder, sweep), objectives)


def _tell(found: Mapping[Path, Failure], varied: Sequence[str]) -> None:
    """Print which jobs of a sweep were left out, and which failed."""
    from saintprune.reporting.sweep import left_out

    for line in left_out(found.values(), varied):
        print(line, file=sys.stderr)
    for path, failure in found.items():
        if failure.fits:
            more = f" (traceback: {path})" if failure.traceback else ""
            print(f"failed: {failure.line(varied)}{more}", file=sys.stderr)


def _tell_how_to_go_on() -> None:
    """Say how a multirun that did not end well is continued."""
    for folder in _running:
        print(f"to run what is missing: the same command with hydra.sweep.dir={folder}", file=sys.stderr)


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


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
        _fail(
            f"cannot write to {folder}: {error.strerror}; make room or choose another place with"
            " hydra.run.dir=DIR (hydra.sweep.dir=DIR for -m)"
        )


if __name__ == "__main__":
    main()
