"""From a config node to an object, and from what does not bind to one line that says what, where and what next."""

from __future__ import annotations

import inspect
import re
from typing import Any, get_args, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from saintprune.errors import SaintpruneError, did_you_mean


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
        return _mistyped(node, target) or message
    known = [name for name in inspect.signature(target).parameters if name not in ("self", "kwargs")]
    key = unknown.group(1)
    return f"{target.__name__} has no {key!r}{did_you_mean(key, known)}; it takes {', '.join(known)}"


def _mistyped(node: Any, target: Any) -> str | None:
    """Return which value of a node is not of the type that its target declares; None if none is found."""
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    for key, value in node.items():
        hint = hints.get(key)
        allowed = set(get_args(hint)) or {hint}
        allowed |= {int} if float in allowed else set()
        if allowed <= {int, float, str, bool, type(None)} and type(value) not in allowed:
            return f"{key} is {value!r}, but must be {' or '.join(sorted(kind.__name__ for kind in allowed))}"
    return None
