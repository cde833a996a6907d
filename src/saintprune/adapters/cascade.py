"""A cascade: images that the pruned network is unsure of are answered anew, with less pruning or none.

The deferral rule is the margin between the two likeliest classes, which costs nothing to know. Derivation, measurements
and what it does to the time of a single image: docs/cascade.md.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import wraps
from typing import Any

from torch import Tensor

from saintprune.errors import NotForThisModelError, SaintpruneError


def deferring(
    forward: Callable[..., Any],
    margin: float,
    second: Callable[..., Any],
    note: Callable[[Tensor], None],
) -> Callable[..., Any]:
    """Return a forward that lets another one answer what it is unsure of.

    Args:
        forward: of the whole network: returns logits [B, classes], or an output of transformers that has `logits`.
        margin: between the probabilities of the two likeliest classes, 0..1, below which an image is deferred.
        second: answers the deferred images: takes and returns what `forward` does.
        note: is told which images were deferred, bool [B].

    Raises:
        SaintpruneError: the output has no classes to choose from, or a loss that would be of the first pass.
    """

    @wraps(forward)
    def cascade(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        logits = _logits(output)
        deferred = margins(logits.detach()) < margin
        note(deferred)
        rows = deferred.nonzero()[:, 0]
        if not len(rows):
            return output

        def of_rows(value: Any) -> Any:
            return value[rows] if isinstance(value, Tensor) and value.ndim and len(value) == len(logits) else value

        again = second(*map(of_rows, args), **{name: of_rows(value) for name, value in kwargs.items()})
        return _with_logits(output, logits.index_copy(0, rows, _logits(again).to(logits.dtype)))

    return cascade


def margins(logits: Tensor) -> Tensor:
    """Return the difference between the two highest probabilities, [B, classes] -> [B] float32, 0..1."""
    best, second = logits.float().softmax(-1).topk(2, dim=-1).values.unbind(-1)
    return best - second


def not_here(net: object) -> NotForThisModelError:
    """Return the error of a plan that defers, for a network that does not classify images."""
    return NotForThisModelError(
        f"defer goes by how sure a classifier is of its answer, and {type(net).__name__} is none: leave defer out"
        " (pruning.defer=null), or give a classifier of timm or a ViTForImageClassification"
    )


def _logits(output: Any) -> Tensor:
    logits = getattr(output, "logits", output)
    if not (isinstance(logits, Tensor) and logits.ndim == 2 and logits.shape[1] > 1):
        found = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise SaintpruneError(
            f"defer needs logits [images, classes], of two classes or more, but the output is {found}"
        )
    if getattr(output, "loss", None) is not None:
        raise SaintpruneError("defer cannot tell the loss of a batch answered in two passes: call without labels")
    return logits


def _with_logits(output: Any, logits: Tensor) -> Any:
    """Return an output with other logits; what it has beside them stays that of the first pass."""
    if isinstance(output, Tensor):
        return logits
    changed = copy(output)
    changed["logits"] = logits
    return changed
