"""From a config node to an object, and from what does not bind to one line that says what, where and what next."""

from __future__ import annotations

import inspect
import math
import re
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from saintprune.errors import SaintpruneError, did_you_mean

_SCALARS = {int, float, str, bool, type(None)}
_ANYTHING = {Any, object, dict, list, tuple, Path}  # types that many a value of a config stands for


def make(cfg: DictConfig, key: str, **arguments: Any) -> Any:
    """Build what a node's `_target_` names.

    Args:
        cfg: the whole config.
        key: of the node.
        **arguments: given to the target besides the node's own.

    Raises:
        SaintpruneError: a key that the target does not take, a value that it refuses, or no such target.
    """
    node = OmegaConf.select(cfg, key)
    if not OmegaConf.is_dict(node) or "_target_" not in node:
        raise SaintpruneError(
            f"{key} is {str(node)[:60]!r}, but must say what to build, with a _target_ as in conf/{key.split('.')[0]}"
        )
    _check_types(node, key)
    try:
        return instantiate(node, _convert_="all", _partial_=True)(**arguments)
    except InstantiationException as error:  # a node inside this one, or a target that does not exist
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, SaintpruneError):
            cause = cause.__cause__
        if isinstance(cause, SaintpruneError):
            raise cause from None
        where = str(error).rpartition("full_key: ")[2].strip() or key
        raise SaintpruneError(f"{where}: {_reason(OmegaConf.select(cfg, where), cause)}") from error
    except (TypeError, ValueError) as error:
        raise SaintpruneError(f"{key}: {_reason(node, error)}") from error


def target_of(cfg: DictConfig, key: str) -> Any:
    """Return what a node's `_target_` names; None where there is no such thing, which `make` would say."""
    try:
        return get_object(OmegaConf.select(cfg, f"{key}._target_"))
    except Exception:  # hydra raises what the import raises
        return None


def _reason(node: Any, cause: BaseException) -> str:
    """Return the first line of an error; for a key that the class does not take, what it does take."""
    message = str(cause).strip().splitlines()[0]
    if not isinstance(cause, TypeError) or not OmegaConf.is_dict(node) or "_target_" not in node:
        return message
    target = get_object(node["_target_"])
    unknown = re.search(r"unexpected keyword argument '(\w+)'", message)
    if unknown is None:
        return message
    known = [name for name in inspect.signature(target).parameters if name not in ("self", "kwargs")]
    key = unknown.group(1)
    return f"{target.__name__} has no {key!r}{did_you_mean(key, known)}; it takes {', '.join(known)}"


def _check_types(node: Any, key: str) -> None:
    """Check the values of a node, and of the nodes inside, against the types that their targets declare.

    Raises:
        SaintpruneError: a value of another type, or one that is no number (nan).
    """
    hints = _hints(node.get("_target_"))
    for name, value in node.items():
        where, allowed = f"{key}.{name}", _allowed(hints.get(str(name)))
        if isinstance(value, float) and math.isnan(value):
            raise SaintpruneError(f"{where} is nan, which is no number")
        if not _fits(value, allowed):
            kinds = " or ".join(sorted("null" if kind is type(None) else kind.__name__ for kind in allowed))
            raise SaintpruneError(f"{where} is {str(value)[:60]!r}, but must be {kinds}")
        if OmegaConf.is_dict(value):
            _check_types(value, where)


def _allowed(hint: Any) -> set[type]:
    """Return the classes that a declared type admits; none where it is more than a choice of classes."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if not all(inspect.isclass(kind) and get_origin(kind) is None for kind in kinds):
        return set()
    return {*kinds, int} if float in kinds else set(kinds)


def _fits(value: Any, allowed: set[type]) -> bool:
    """Return whether a value is of one of the classes, or is to be built as one of them, as far as can be told."""
    if allowed - _SCALARS and OmegaConf.is_dict(value):
        return "_target_" in value
    return not allowed or bool(allowed & _ANYTHING) or type(value) in allowed


def _hints(target: Any) -> dict[str, Any]:
    """Return the declared types of what a target takes, by name; those that cannot be told are left out."""
    if target is None:  # a group of plain values; Hydra would write an error before it raises one
        return {}
    try:
        found = get_object(target)
        classes = reversed(inspect.getmro(found)) if inspect.isclass(found) else [found]
        hints: dict[str, Any] = {}
        for one in classes:
            hints |= get_type_hints(one.__init__ if inspect.isclass(one) else one)
        return hints
    except Exception:  # no such target, of which `instantiate` says more, or names that only type checkers know
        return {}
