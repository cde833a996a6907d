"""A plan by the name of its YAML file, with some of its values changed by keyword, for Python programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from typing import Any

from saintprune.binding import make
from saintprune.config import compose_run, names_in
from saintprune.errors import SaintpruneError, did_you_mean
from saintprune.plan import Plan, Stage

OF_STAGE = ("layers", "schedule", "proportional_attention", "spread")


def named_plan(method: str | Plan, settings: Mapping[str, Any] | None = None) -> Plan:
    """Return the plan of `pruning=NAME` with some values changed.

    Args:
        method: name of a file in `conf/pruning/`, or a plan.
        settings: values of the method or of its stage by name; of a plan with several stages by stage.

    Raises:
        SaintpruneError: no such pruning or setting, or a value that is refused.
    """
    plan = method if isinstance(method, Plan) else _composed(method)
    stages = dict(plan.stages)
    for name, values in _by_stage(plan, settings or {}).items():
        stages[name] = _changed(name, stages[name], values)
    return replace(plan, stages=stages)


def _composed(name: str) -> Plan:
    """Return the plan of a file."""
    known = names_in("pruning")
    if name not in known:
        plain = ", ".join(known_name for known_name in known if "/" not in known_name)
        raise SaintpruneError(
            f"no pruning is called {name!r}{did_you_mean(str(name), known)}; there are {plain}, and those in drop50/,"
            " drop75/ and drop90/"
        )
    return make(compose_run([f"pruning={name}"])[0], "pruning")


def _by_stage(plan: Plan, settings: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Sort settings by the stages that they belong to."""
    found = {name: values for name, values in settings.items() if name in plan.stages and isinstance(values, Mapping)}
    rest = {name: value for name, value in settings.items() if name not in found}
    if not rest:
        return found
    if not plan.stages:
        raise SaintpruneError(f"{', '.join(rest)}: the plan has no stage that could take it; name one that prunes")
    if len(plan.stages) != 1:
        stages = ", ".join(plan.stages)
        example = f"{next(iter(plan.stages))}={{{next(iter(rest))!r}: …}}"
        raise SaintpruneError(f"{', '.join(rest)}: the plan has the stages {stages}; say which, such as {example}")
    (stage,) = plan.stages
    return {stage: {**found.get(stage, {}), **rest}}


def _changed(name: str, stage: Stage, values: Mapping[str, Any]) -> Stage:
    """Return a stage with values changed, in itself or in its method."""
    method: Any = stage.method
    of_method = list(signature(type(method)).parameters)
    for key in values:
        if key not in (*OF_STAGE, *of_method):
            known = (*of_method, *OF_STAGE)
            raise SaintpruneError(
                f"{type(method).__name__} in stages.{name} has no {key!r}{did_you_mean(key, known)}; it takes"
                f" {', '.join(known)}"
            )
    try:
        own = {key: value for key, value in values.items() if key in of_method}
        outer = {key: value for key, value in values.items() if key not in of_method}
        return replace(stage, method=replace(method, **own) if own else method, **outer)
    except (TypeError, ValueError) as error:
        raise SaintpruneError(f"stages.{name}: {error}") from error
