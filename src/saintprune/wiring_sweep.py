"""The jobs of a multirun: what is recorded is not run again, and a job that fails takes no other with it."""

from __future__ import annotations

import json
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from omegaconf import DictConfig

from saintprune import wiring
from saintprune.errors import NotForThisModelError, SaintpruneError, did_you_mean, one_line
from saintprune.files import locked, write_atomically
from saintprune.parts import console
from saintprune.reporting.loggers import flat_figures
from saintprune.reporting.records import RunRecord
from saintprune.reporting.sweep import FAILED, RECORD, Failure

LOCKS = ".locks"  # in the sweep's folder: a file per identity that a process was at


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        cfg: its composed config.
        names: how the dataset is called in messages, and the pruning in the record.
        overrides: KEY=VALUE each.
        folder: where its record goes.
        sweep: the folder of all jobs.
    """

    cfg: DictConfig
    names: dict[str, str]
    overrides: Sequence[str]
    folder: Path
    sweep: Path


def run_searched(job: Job, objectives: Sequence[str] = ()) -> tuple[float, ...] | None:
    """Run a job unless the sweep holds its record; return the figures that a search looks at.

    A failure is printed, and kept in the job's folder for the summary of the sweep, as is a job with a pruning for
    another kind of model.

    Args:
        job: what to run.
        objectives: names of figures, as `objective_values` takes them.

    Returns:
        The figures; None where the job failed or none are asked for.
    """
    try:
        record = _record_of(job)
        return objective_values(record, objectives) if objectives else None
    except SaintpruneError as error:
        _keep_failure(job, str(error), fits=not isinstance(error, NotForThisModelError))
    except Exception as error:  # a defect, or too little memory, costs one job
        _keep_failure(job, one_line(error), traceback.format_exc())
    return None


def _record_of(job: Job) -> RunRecord:
    """Return the record of a job, after running it where there is none.

    A process that lives on after its sweep was killed may be at the same job: that one is waited for.
    """
    identity = wiring.identity_of(job.cfg)
    lock = job.sweep / LOCKS / identity
    with locked(lock, lambda: console.print(f"{job.folder}: another process is at this job; waiting", soft_wrap=True)):
        known = recorded(job.sweep, job.folder, identity)
        if known is not None:
            console.print(f"{known}: recorded already", soft_wrap=True, markup=False)
            return RunRecord.read(known)
        for draft in job.folder.rglob(".*.tmp"):  # of a run that was killed while it wrote
            draft.unlink()
        return wiring.run(job.cfg, job.folder, job.names, job.sweep)


def recorded(sweep: Path, folder: Path, identity: str) -> Path | None:
    """Return the record of an identity in a sweep's folder, the job's own first; None where there is none."""
    own = folder / RECORD
    for path in (own, *sorted(set(sweep.glob(f"**/{RECORD}")) - {own})):
        record = RunRecord.read_if_whole(path)
        if record is not None and record.identity == identity:
            return path
    return None


def objective_values(record: RunRecord, names: Sequence[str]) -> tuple[float, ...]:
    """Return the figures of a record that a search looks at.

    Args:
        record: of a run.
        names: such as `pruned.accuracy`, `delta.speedup` or `agreement`.

    Raises:
        SaintpruneError: the record has no such figure.
    """
    figures = {name.replace("/", "."): value for name, value in flat_figures(asdict(record)).items()}
    for name in names:
        if name not in figures:
            raise SaintpruneError(
                f"objectives has {name!r}, which this run did not measure{did_you_mean(name, figures)}; it measured"
                f" {', '.join(figure for figure in figures if figure.startswith(('pruned.', 'delta.', 'agree')))}"
            )
    return tuple(figures[name] for name in names)


def _keep_failure(job: Job, reason: str, trace: str | None = None, *, fits: bool = True) -> None:
    told = ("failed", "red") if fits else ("left out", "yellow")
    console.print(f"{told[0]}: {reason}", soft_wrap=True, markup=False, style=told[1])
    failure = Failure(list(job.overrides), reason, trace, fits)
    write_atomically(job.folder / FAILED, json.dumps(asdict(failure), indent=2) + "\n")
