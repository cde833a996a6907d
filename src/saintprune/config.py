"""The root schema of a run, in which a mistyped key is an error, and how its groups are chosen by name."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, QuotedString, Sweep
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.version import VersionBase
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from saintprune.errors import SaintpruneError

OF_PRUNING = ("pruning.", "pruning@pruning.", "stage@pruning.")  # what overrides of the pruning begin with
ALSO_NAMED = ("calibration.target", "calibration.correct")  # as they make another pruning of it
NAMED_APART = ("model", "dataset", "pruning")  # groups whose choice a table names anyway


class Task(Enum):
    """What a run does."""

    evaluate = "evaluate"
    benchmark = "benchmark"
    calibrate = "calibrate"
    analyze = "analyze"


@dataclass
class CalibrationConfig:
    """How to calibrate; with a target, `evaluate` and `benchmark` calibrate first."""

    target: str | None = None
    samples: int = 64
    correct: int | None = None
    head: str | None = None
    steps: int = 10
    pairs: int = 5
    save_as: str | None = None


@dataclass
class Config:
    """A run. Groups are instantiated by `wiring`; their YAML files bind to classes that check their own values."""

    task: Task = Task.evaluate
    model: Any = MISSING
    dataset: Any = MISSING
    pruning: Any = MISSING
    hardware: Any = MISSING
    logger: Any = MISSING
    benchmark: Any = MISSING
    analysis: Any = MISSING
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    objectives: list[str] = field(default_factory=lambda: ["pruned.accuracy", "delta.speedup"])
    seed: int = 0
    experiment: str | None = None  # the file in conf/experiment that it was composed from


def config_dir() -> Path:
    """Return the folder of the YAML files: in a checkout `conf/`, in an installed package `saintprune/conf/`."""
    here = Path(__file__).resolve().parent
    packaged = here / "conf"
    return packaged if packaged.is_dir() else here.parents[1] / "conf"


def own_config_dir() -> Path:
    """Return the folder for YAML files that runs write for later runs: that of a checkout, or where the package is
    installed `saintprune_conf/` in the working directory, whose files come before the packaged ones.
    """
    packaged = config_dir()
    return Path.cwd() / "saintprune_conf" if packaged.parent == Path(__file__).resolve().parent else packaged


def config_file(name: str) -> Path:
    """Return where a YAML file is: among the runs' own, if it is there, else among the packaged ones."""
    own = own_config_dir() / name
    return own if own.is_file() else config_dir() / name


def names_in(group: str) -> list[str]:
    """Return what can be chosen in a group: the paths of its YAML files, without the ending."""
    folders = {config_dir() / group, own_config_dir() / group}
    return sorted(
        {path.relative_to(folder).with_suffix("").as_posix() for folder in folders for path in folder.rglob("*.yaml")}
    )


class OwnConfigs(SearchPathPlugin):
    """Lets Hydra look into `own_config_dir()` first."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Put the folder before the packaged one, if it is another and exists."""
        own = own_config_dir()
        if own != config_dir() and own.is_dir():
            search_path.prepend("saintprune", str(own))


def register() -> None:
    """Make known to Hydra the schema as `schema`, what runs wrote as configs, and `short_hash`, which tells the folders
    of a sweep's jobs apart.
    """
    ConfigStore.instance().store(name="schema", node=Config)
    Plugins.instance().register(OwnConfigs)
    OmegaConf.register_new_resolver("short_hash", _short_hash, replace=True)


def _short_hash(values: Sequence[Any]) -> str:
    """Return six hexadecimal digits that depend on all of the values."""
    return hashlib.sha256("\0".join(as_given(values)).encode()).hexdigest()[:6]


def as_given(overrides: Any) -> list[str]:
    """Return overrides as they were given; a node of OmegaConf would look up what `KEY=${other}` refers to."""
    plain = OmegaConf.to_container(overrides) if OmegaConf.is_list(overrides) else overrides
    return [str(override) for override in cast(Sequence[Any], plain)]


def compose_run(overrides: Sequence[str] = ()) -> tuple[DictConfig, dict[str, str]]:
    """Compose the config of a run, as `python run.py …` would, and say how its groups are called in tables.

    Args:
        overrides: such as "model=vit_s14" or "hardware.batch_size=4", in Hydra's grammar.

    Raises:
        SaintpruneError: a name or an override that Hydra does not take.
    """
    register()
    refuse_overrides(overrides)
    try:
        with _apart_from_others(), initialize_config_dir(str(config_dir()), version_base="1.3"):
            cfg = compose("config", list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(str(error).partition("Config search path")[0].split())
        raise SaintpruneError(f"cannot compose {' '.join(overrides)}: {reason}") from error
    names = names_of(cfg.hydra)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg, names


@contextmanager
def _apart_from_others() -> Iterator[None]:
    """Let a Hydra that the program around this one runs go on after the `with` block as before."""
    others, base = GlobalHydra.instance().hydra, VersionBase.instance().version_base
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = others
        VersionBase.instance().version_base = base  # which setbase would not take while it is unset


def plain(node: DictConfig) -> dict[str, Any]:
    """Return a config node as plain data."""
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=True, enum_to_str=True))


def refuse_overrides(overrides: Sequence[str]) -> None:
    """Check what Hydra would meet with a traceback, or not at all; other mistakes it tells.

    Raises:
        SaintpruneError: a group is given a number or the like, or a part that every run needs is taken away.
    """
    groups = {path.name for path in config_dir().iterdir() if path.is_dir()}
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException:
        return
    for override in parsed:
        key, value = override.key_or_group, override.value()
        if override.is_delete() and key in Config.__dataclass_fields__:
            raise SaintpruneError(f"~{key} takes away what every run needs: leave it out")
        for item in (value if isinstance(value, list) else [value]) if key in groups else ():
            if not isinstance(item, (str, QuotedString, Sweep, Glob)):
                raise SaintpruneError(f"{key}={item} names no file: choose one of conf/{key}, or set {key}.KEY")


def names_of(hydra_config: Any, varied: Collection[str] = ()) -> dict[str, str]:
    """Return how the run's groups are called in tables: the chosen file and, for pruning, what was overridden in it.

    Args:
        hydra_config: the config `hydra` of the run.
        varied: keys that tell the run from the others of its sweep; those that name no part of the pruning stand
            beside it in full, as in "ward hardware.batch_size=8".
    """
    choices = hydra_config.runtime.choices
    changed = []
    for override in as_given(hydra_config.overrides.task):
        given, _, value = override.partition("=")
        key = given.lstrip("+~")
        if key.startswith((*OF_PRUNING, *ALSO_NAMED)):
            last = key.rpartition(".")[2]
            changed.append(f"~{last}" if given.startswith("~") else f"{last}={value}")
        elif given in varied and key not in NAMED_APART:
            changed.append(f"{key}={value}")
    return {"dataset": choices["dataset"], "pruning": " ".join([choices["pruning"], *changed])}
