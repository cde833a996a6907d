"""What a multirun is told by Hydra: which launcher and sweeper it needs, and which keys its jobs differ in."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from saintprune.config import as_given
from saintprune.errors import SaintpruneError

PLUGINS = "hydra_plugins"
EXTRAS = {  # package of the plugin: extra of saintprune that brings it
    "hydra_joblib_launcher": "joblib",
    "hydra_submitit_launcher": "submitit",
    "hydra_ray_launcher": "ray",
    "hydra_optuna_sweeper": "optuna",
}
ALL_AT_ONCE = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"


def refuse_launch(launcher: Mapping[str, Any], sweeper: Mapping[str, Any]) -> None:
    """Check that a multirun can be launched.

    Args:
        launcher: the config `hydra.launcher`.
        sweeper: the config `hydra.sweeper`.

    Raises:
        SaintpruneError: a plugin is not installed, or all jobs would start at once on this machine.
    """
    for key, node in (("launcher", launcher), ("sweeper", sweeper)):
        package = node["_target_"].split(".")[1] if node["_target_"].startswith(f"{PLUGINS}.") else None
        if package is not None and not _installed(package):
            extra = EXTRAS.get(package)
            what = f"pip install 'saintprune[{extra}]'" if extra else f"the plugin {package}"
            raise SaintpruneError(f"hydra/{key} needs {node['_target_'].rpartition('.')[2]}: {what}")
    if launcher["_target_"] == ALL_AT_ONCE and "max_batch_size" in sweeper and sweeper["max_batch_size"] is None:
        raise SaintpruneError(
            "this launcher (submitit_local) starts all jobs at once on this machine: say how many it bears with"
            " hydra.sweeper.max_batch_size=2"
        )


def varied_keys(hydra_config: Any) -> list[str]:
    """Return the keys that the jobs of a multirun differ in.

    Args:
        hydra_config: the config `hydra` of the multirun.
    """
    parsed = OverridesParser.create().parse_overrides(as_given(hydra_config.overrides.task))
    varied = [override.get_key_element() for override in parsed if override.is_sweep_override()]
    return [*varied, *map(str, hydra_config.sweeper.get("params") or ())]


def _installed(package: str) -> bool:
    try:
        return find_spec(f"{PLUGINS}.{package}") is not None
    except ModuleNotFoundError:  # there is no plugin at all
        return False
