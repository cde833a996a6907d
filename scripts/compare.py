"""Run several prunings of one model on one dataset, and keep a record of each.

    python scripts/compare.py FOLDER 'drop50/*' drop75/saint_hybrid --overrides model=vlm_s14_smollm2 dataset=elpv_vqa

As a multirun does, but the model is loaded once, and a vision-language model is asked once without pruning. A pruning
whose record is there already, made of the same config, is not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from fnmatch import fnmatch
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from saintprune import wiring
from saintprune.config import config_dir, register
from saintprune.errors import SaintpruneError
from saintprune.reporting.tables import run_table


def main() -> int:
    """Compose, run and record; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore[reportOptionalMemberAccess]
    parser.add_argument("folder", type=Path, help="for the records, PRUNING.json each")
    parser.add_argument("prunings", nargs="+", help="files in conf/pruning, or patterns of such, as 'drop50/*'")
    parser.add_argument("--overrides", nargs="*", default=[], help="KEY=VALUE, as for run.py, such as model=NAME")
    arguments = parser.parse_args()
    register()
    try:
        compare(arguments.folder, chosen(arguments.prunings), arguments.overrides)
    except SaintpruneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def chosen(patterns: list[str]) -> list[str]:
    """Return the prunings that patterns name, in their order.

    Raises:
        SaintpruneError: a pattern names none.
    """
    root, found = config_dir() / "pruning", []
    known = sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.glob("**/*.yaml"))
    for pattern in patterns:
        matches = [name for name in known if fnmatch(name, pattern)]
        if not matches:
            raise SaintpruneError(f"no pruning is called {pattern!r}; see conf/pruning")
        found += [name for name in matches if name not in found]
    return found


def compare(folder: Path, prunings: list[str], overrides: list[str]) -> None:
    """Run the prunings that have no record yet."""
    parts = None
    for pruning in prunings:
        path = folder / f"{pruning.replace('/', '-')}.json"
        cfg, names = composed([*overrides, f"pruning={pruning}"]), {"pruning": pruning, "dataset": dataset(overrides)}
        if is_recorded(path, cfg):
            print(f"{path}: recorded already")
            continue
        parts = wiring.build(cfg, names) if parts is None else wiring.repruned(parts, cfg, names)
        record = wiring.measure(parts)
        record.write(path)
        wiring.console.print(run_table(record))
        print(f"record: {path}", flush=True)


def composed(overrides: list[str]) -> DictConfig:
    """Return the config of one run."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("config", overrides)


def dataset(overrides: list[str]) -> str:
    """Return how the dataset is called in records."""
    return next((value.partition("=")[2] for value in overrides if value.startswith("dataset=")), "elpv")


def is_recorded(path: Path, cfg: DictConfig) -> bool:
    """Return whether there is a record of this very config."""
    if not path.is_file():
        return False
    return json.loads(path.read_text())["config"] == OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)


if __name__ == "__main__":
    sys.exit(main())
