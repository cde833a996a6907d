"""Many prunings of one model on one dataset: which cells there are, and running those that have no record yet."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.markup import escape

from saintprune import wiring, wiring_calibration
from saintprune.binding import make
from saintprune.calibration.search import OutOfReach
from saintprune.calibration.targets import Target
from saintprune.config import Task, compose_run, names_in, plain
from saintprune.errors import SaintpruneError, one_line
from saintprune.metrics.samples import Samples
from saintprune.models import corrections
from saintprune.parts import Parts, console, quiet
from saintprune.reporting.configs import HARDWARE, changed, check_joins, seeds_of
from saintprune.reporting.identity import determinants
from saintprune.reporting.records import RunRecord
from saintprune.reporting.samples_file import beside, write_samples
from saintprune.reporting.tables import run_table


@dataclass(frozen=True)
class Cell:
    """One pruning, at one target where there are targets, with one seed where its method draws.

    Attributes:
        pruning: a file in conf/pruning.
        target: what to calibrate to; None takes the pruning as it is.
        seed: of the method; None where it has none, or where its own is kept.
        cfg: the composed config.
        names: how the dataset is called in messages, and the pruning in the record.
    """

    pruning: str
    target: Target | None
    seed: int | None
    cfg: DictConfig
    names: dict[str, str]

    @property
    def name(self) -> str:
        """Return the name of its files: PRUNING[@TARGET][~seedK]."""
        target = "" if self.target is None else f"@{self.target.kind}{self.target.value:g}"
        return self.pruning.replace("/", "-") + target + ("" if self.seed is None else f"~seed{self.seed}")


def chosen(patterns: Sequence[str]) -> list[str]:
    """Return the prunings that patterns name, in their order.

    Raises:
        SaintpruneError: a pattern names none.
    """
    known, found = names_in("pruning"), []
    for pattern in patterns:
        matches = [name for name in known if fnmatch(name, pattern)]
        if not matches:
            raise SaintpruneError(f"no pruning is called {pattern!r}; see conf/pruning")
        found += [name for name in matches if name not in found]
    return found


def cells(
    prunings: Sequence[str], overrides: Sequence[str], targets: Sequence[str] = (), seeds: int | None = None
) -> list[Cell]:
    """Return all cells: each pruning at each target, those whose method has a `seed` once per seed.

    Args:
        prunings: files in conf/pruning.
        overrides: as for run.py.
        targets: such as `flops:0.5`; none leaves the prunings as they are.
        seeds: 0..seeds-1; None keeps the seeds of the configs.

    Raises:
        SaintpruneError: a target or an override that makes no sense.
    """
    if seeds is not None and seeds < 1:
        raise SaintpruneError(f"--seeds is {seeds}, but must be at least 1")
    parsed = list(dict.fromkeys(Target.parse(target) for target in targets)) or [None]
    found = []
    for pruning in prunings:
        composed = compose_run([*overrides, f"pruning={pruning}"])[0]
        seeded = list(seeds_of({"pruning": OmegaConf.to_container(composed.pruning)}))
        for target in parsed:
            for seed in range(seeds) if seeds is not None and seeded else (None,):
                found.append(_cell(pruning, overrides, target, seed, seeded))
    return found


def run_all(folder: Path, planned: Sequence[Cell]) -> dict[str, str]:
    """Run the cells that have no record yet; a cell that fails does not stop the others.

    The model is loaded once, and what it answers unpruned is computed once for all cells.

    Args:
        folder: for the records, NAME.json each, and the answers to each sample, NAME.npz.
        planned: of one model and dataset.

    Returns:
        By name of the cell, why it failed.

    Raises:
        SaintpruneError: the folder's records, or other cells, are of another comparison.
    """
    quiet()
    _check_all_join(folder, planned)
    failed: dict[str, str] = {}
    parts: Parts | None = None
    for number, cell in enumerate(planned, start=1):
        path = folder / f"{cell.name}.json"
        known_as = wiring.identity_of(cell.cfg)
        there = RunRecord.read_if_whole(path)
        if there is not None and there.identity == known_as:
            console.print(f"{path}: recorded already", soft_wrap=True, markup=False)
            continue
        if there is not None:
            _tell_what_is_replaced(path, there, cell.cfg)
        console.print(f"[bold]{number} of {len(planned)}: {cell.name}[/bold]", soft_wrap=True)
        try:
            if parts is None:
                parts = wiring.build(cell.cfg, cell.names)
            else:
                parts = wiring.repruned(parts, cell.cfg, cell.names)
            record, samples = _measured(parts, cell.target)
            if samples is not None:
                write_samples(beside(path), samples)  # first: where there is a record, all of the cell is there
            tensors = path.with_suffix(corrections.SUFFIX)
            if parts.plan.correction is not None:
                corrections.write(tensors, parts.plan)
            record = replace(record, identity=known_as)
            record.write(path)
            if samples is None:
                beside(path).unlink(missing_ok=True)  # of an earlier run that did measure something
            if parts.plan.correction is None:
                tensors.unlink(missing_ok=True)
        except Exception as error:  # one method's defect, or too little memory, costs one cell
            if not isinstance(error, SaintpruneError):
                traceback.print_exc()
            failed[cell.name] = one_line(error)
            console.print(f"[red]failed:[/red] {escape(failed[cell.name])}", soft_wrap=True)
        else:
            reason = record.out_of_reach
            console.print(run_table(record) if reason is None else escape(reason), soft_wrap=True)
            console.print(f"record: {path}", soft_wrap=True, markup=False)
    return failed


def _check_all_join(folder: Path, planned: Sequence[Cell]) -> None:
    """Check, before anything is measured, that the cells to come are of the comparison that a folder holds."""
    there = {path.name: RunRecord.read_if_whole(path) for path in sorted(folder.glob("*.json"))}
    to_come = {f"{cell.name}.json": (plain(cell.cfg), asdict(make(cell.cfg, "hardware"))) for cell in planned}
    check_joins({name: record for name, record in there.items() if record is not None}, to_come)


def _tell_what_is_replaced(path: Path, record: RunRecord, cfg: DictConfig) -> None:
    """Print what is another now than in the record that stands in a cell's place."""
    if "calibration" not in record.config:
        return
    before, after = determinants(record.config), determinants(plain(cfg))
    for config, hardware in ((before, record.hardware), (after, asdict(make(cfg, "hardware")))):
        config["hardware"] = {key: hardware.get(key) for key in HARDWARE}
    what = changed(before, after) or "the code or its packages are others now"
    console.print(f"[yellow]{escape(str(path))} will be replaced:[/yellow] {escape(what)}", soft_wrap=True)


def _measured(parts: Parts, target: Target | None) -> tuple[RunRecord, Samples | None]:
    """Calibrate and correct as the config says, and measure."""
    try:
        calibrated = wiring_calibration.prepare(parts, target)
    except OutOfReach as error:
        return wiring.unreached(parts, str(error)), None
    return wiring.measured(parts, calibrated)


def _cell(pruning: str, overrides: Sequence[str], target: Target | None, seed: int | None, seeded: list[str]) -> Cell:
    changes = [] if target is None else [f"calibration.target={target}"]
    changes += [] if seed is None else [f"pruning.{place}.method.seed={seed}" for place in seeded]
    cfg, names = compose_run([*overrides, f"pruning={pruning}", *changes])
    if cfg.task not in (Task.evaluate, Task.benchmark):
        raise SaintpruneError(f"a comparison is of task=evaluate or task=benchmark, not of task={cfg.task.value}")
    return Cell(pruning, target, seed, cfg, names)
