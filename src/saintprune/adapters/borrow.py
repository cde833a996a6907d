"""Borrow a network: set things on its instances for a while and put back what was there before, to the letter."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from torch import nn

from saintprune.adapters.cascade import not_here
from saintprune.adapters.head import not_corrected
from saintprune.adapters.resize import not_resized
from saintprune.errors import NotForThisModelError, SaintpruneError
from saintprune.plan import Plan

_MARK = "_saintprune_active"


def borrow(undo: ExitStack, net: nn.Module) -> None:
    """Mark a network as being pruned until `undo` closes.

    Raises:
        SaintpruneError: it is being pruned already, or it would run its blocks twice.
    """
    _refuse_recomputing(net)
    if getattr(net, _MARK, False):
        raise SaintpruneError(
            "this network is being pruned already: leave the outer `with` block first, or call restore() on what"
            " prune() gave"
        )
    patch(undo, net, _MARK, True)


def refuse_other_sites(plan: Plan, site: str, net: nn.Module, kind: str) -> None:
    """Check that a plan prunes nothing that a network of one kind ("a decoder") lacks.

    Raises:
        NotForThisModelError: it has a stage of another site, defers or corrects where nothing classifies images, or
            resizes where nothing sees them.
    """
    if site != "vision" and plan.defer is not None:
        raise not_here(net)
    if site != "vision" and plan.resize is not None:
        raise not_resized(net, f"is {kind} alone")
    if site != "vision" and plan.correction is not None:
        raise not_corrected(net)
    for name, stage in plan.stages.items():
        if stage.site != site:
            raise NotForThisModelError(
                f"stages.{name}.site is {stage.site!r}, but {type(net).__name__} is {kind} alone: only stages with"
                f" site={site} apply"
            )


def refuse_several_devices(net: nn.Module) -> None:
    """Check that a network lies on one device, as indices of tokens do; offloaded weights ("meta") come to the others.

    Raises:
        SaintpruneError: it lies on several.
    """
    devices = sorted({str(weight.device) for weight in net.parameters() if weight.device.type != "meta"})
    if len(devices) > 1:
        raise SaintpruneError(
            f"this {type(net).__name__} lies on {', '.join(devices)}, but tokens are pruned on one device: load it onto"
            " one, as with device_map='cuda'"
        )


def _refuse_recomputing(net: nn.Module) -> None:
    """Raise where a backward pass would run blocks anew, after the tokens' bookkeeping has moved on."""
    for module in net.modules():
        if getattr(module, "grad_checkpointing", False):  # timm's name; it recomputes in evaluation, too
            raise SaintpruneError(
                "gradient checkpointing runs blocks twice: call net.set_grad_checkpointing(False) to prune"
            )
        if module.training and getattr(module, "gradient_checkpointing", False):  # that of transformers
            raise SaintpruneError(
                "gradient checkpointing runs blocks twice: switch it off, or call net.eval(), to prune"
            )


def patch(undo: ExitStack, module: nn.Module, name: str, value: Any) -> None:
    """Set an instance attribute and register its undoing."""
    had, before = name in module.__dict__, module.__dict__.get(name)
    module.__dict__[name] = value

    def restore() -> None:
        if had:
            module.__dict__[name] = before
        else:
            del module.__dict__[name]

    undo.callback(restore)
