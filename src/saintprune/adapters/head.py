"""The last layer of a classifier: what it reads, and its change while a plan is in place (docs/correction.md)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn
from torch.nn.functional import linear

from saintprune.adapters.plain import plain_weight
from saintprune.correction import Correction
from saintprune.errors import NotForThisModelError, SaintpruneError


@contextmanager
def read_by(module: nn.Module | None) -> Iterator[list[Tensor]]:
    """Yield the list of what a module is given while the `with` block lasts."""
    found: list[Tensor] = []
    if module is None:
        yield found
        return
    handle = module.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    try:
        yield found
    finally:
        handle.remove()


def correct(undo: ExitStack, head: nn.Linear, correction: Correction) -> None:
    """Let a linear layer give other logits; its own weights stay as they are.

    Args:
        undo: takes the undoing.
        head: takes features [B, D], gives logits [B, classes].
        correction: of it.
    """
    weight, bias = correction.weight.to(head.weight), correction.bias.to(head.weight)

    def add(module: nn.Module, args: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        return logits + linear(args[0], weight, bias)

    undo.callback(head.register_forward_hook(add).remove)


def check_head(head: nn.Linear | None, net: object) -> nn.Linear:
    """Return a network's last layer if it can be corrected.

    Raises:
        NotForThisModelError: the network has no such layer, or a quantised one.
    """
    if head is None:
        raise not_corrected(net)
    if not plain_weight(head):
        raise NotForThisModelError(
            f"a correction needs the weights of the last layer, but those of this {type(net).__name__} are quantised"
            f" ({head.weight.dtype}): leave the correction out, or load that layer as floats"
        )
    return head


def check_correction(correction: Correction, head: nn.Linear | None, net: object) -> None:
    """Check that a correction fits a network's last layer.

    Raises:
        NotForThisModelError: the network has no such layer, or a quantised one.
        SaintpruneError: it has another shape.
    """
    head = check_head(head, net)
    if correction.weight.shape != head.weight.shape:
        found, wanted = ("x".join(map(str, one.weight.shape)) for one in (correction, head))
        raise SaintpruneError(
            f"the correction is for a head of {found} (classes x features), but this network's has {wanted}: fit one"
            " for this network (correct_on=, on the command line calibration.correct=)"
        )


def not_corrected(net: object) -> NotForThisModelError:
    """Return the error of a correction, for a network that does not answer by one linear layer."""
    return NotForThisModelError(
        f"a correction is for classifiers whose logits come from one linear layer, and {type(net).__name__} is none:"
        " leave it out (correct_on=None, on the command line calibration.correct=null, pruning.correction=null)"
    )
