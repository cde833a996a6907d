"""The plans of conf/pruning, whole and cut down to the tests' networks of four blocks."""

from dataclasses import replace

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from saintprune.config import config_dir, register
from saintprune.plan import Plan


def plan_of(pruning, *overrides):
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return instantiate(compose("config", [f"pruning={pruning}", *overrides]).pruning, _convert_="all")


def fitted(method):
    """The method with its table, where it has one, cut down to the networks' four blocks."""
    return replace(method, prune=method.prune[:4], merge=method.merge[:4]) if hasattr(method, "prune") else method


def short(plan):
    """The plan with its stages in the first half of the blocks."""
    return Plan(
        {
            name: replace(
                stage, layers="all" if stage.site == "projector" else "first_half", method=fitted(stage.method)
            )
            for name, stage in plan.stages.items()
        }
    )
