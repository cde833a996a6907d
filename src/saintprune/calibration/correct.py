"""Correct a classifier for what a plan does to its features, on unlabelled images (docs/correction.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from saintprune.adapters.base import ViTAdapter
from saintprune.adapters.head import check_head, read_by
from saintprune.calibration.inputs import each_batch
from saintprune.calibration.search import Calibrated, Calibrator, Knob
from saintprune.calibration.targets import Target
from saintprune.correction import fit_correction
from saintprune.errors import SaintpruneError
from saintprune.plan import Plan


class Corrector:
    """Fits corrections for the plans of one network.

    It keeps the features that a plan gave, and what the unpruned network made of the same images, so that plans which
    share a look, and another head in the network's place, cost no further passes. Loaders may shuffle and augment: an
    image that has changed is looked at unpruned anew.

    Args:
        adapter: of a classifier whose logits come from one linear layer.
        images: unlabelled: one batch [B, C, H, W] or a loader of such, labels beside them allowed. What can be gone
            through only once is kept.

    Raises:
        NotForThisModelError: the network has no such layer, or a quantised one.
    """

    def __init__(self, adapter: ViTAdapter, images: Tensor | Iterable[Any]) -> None:
        check_head(adapter.head, adapter.net)
        self.adapter = adapter
        self.images = list(images) if isinstance(images, Iterator) else images
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}  # by look: features [N, D] under pruning, and without
        self.unpruned: dict[str, Tensor] = {}  # by batch of images: features without pruning

    @torch.inference_mode()
    def corrected(self, plan: Plan, advance: Callable[[float], None] = lambda share: None) -> Plan:
        """Return a plan with a correction for each of its looks, of the network's head as it is now.

        Args:
            plan: corrections that it has are left behind.
            advance: is told the share of the work that is done, 0..1, where the number of batches is known.

        Raises:
            SaintpruneError: there are too few images.
        """
        looks = [replace(look, defer=None, second=None, correction=None, calibrated=None) for look in plan.looks]
        self._see(looks, advance)
        fitted = []
        for features, unpruned in (self.seen[repr(look)] for look in looks):
            fitted.append(fit_correction(features, self._logits(features), self._logits(unpruned)))
        return plan.corrected(fitted)

    def _logits(self, features: Tensor) -> Tensor:
        """Return what the head makes of features [N, D]: [N, classes] float64."""
        head = self._head
        bias = None if head.bias is None else head.bias.cpu().double()
        return linear(features.double(), head.weight.cpu().double(), bias)

    def _see(self, looks: Sequence[Plan], advance: Callable[[float], None]) -> None:
        """Collect the features of the looks that are not known yet."""
        missing = {repr(look): look for look in looks if repr(look) not in self.seen}
        found: dict[str, list[Tensor]] = {name: [] for name in missing}
        unpruned: list[Tensor] = []
        batches = 1 if isinstance(self.images, Tensor) else len(self.images) if isinstance(self.images, Sized) else None
        with read_by(self._head) as read:

            def features(images: Tensor) -> Tensor:
                self._classifier(images)
                return read.pop().float().cpu()

            for number, images in enumerate(each_batch(self.images if missing else (), self.adapter), start=1):
                key = _digest(images)
                if key not in self.unpruned:
                    self.unpruned[key] = features(images)
                unpruned.append(self.unpruned[key])
                for name, look in missing.items():
                    with self.adapter.pruned(look):
                        found[name].append(features(images))
                advance(number / batches if batches else 0.0)
        if missing and not unpruned:
            raise SaintpruneError("there are no images to fit a correction on: give some, better hundreds")
        self.seen |= {name: (torch.cat(own), torch.cat(unpruned)) for name, own in found.items()}

    @property
    def _head(self) -> nn.Linear:
        return check_head(self.adapter.head, self.adapter.net)  # another may stand in for it meanwhile

    @property
    def _classifier(self) -> nn.Module:
        assert self.adapter.classifier is not None  # where there is a head
        return self.adapter.classifier


def fitted_for_another() -> SaintpruneError:
    """Return the error of a plan whose stages, strength or size are no longer those that its correction is for."""
    return SaintpruneError(
        "the plan's correction was fitted for its own stages, strength and size of images, which change: fit another"
        " (give correct_on=, on the command line calibration.correct=…), or leave it out (dataclasses.replace(plan,"
        " correction=None), on the command line pruning.correction=null)"
    )


def _digest(images: Tensor) -> str:
    """Return what tells one batch of images from another."""
    return hashlib.sha256(images.cpu().contiguous().view(torch.uint8).numpy().data).hexdigest()


def search_corrected(
    calibrator: Calibrator,
    corrector: Corrector | None,
    plan: Plan,
    target: Target,
    steps: int,
    advance: Callable[[float], None] = lambda share: None,
) -> Calibrated:
    """Search as `Calibrator.search` does, for a plan that has its classifier corrected; None only searches.

    What a margin costs and how many answers are kept depend on the correction, which depends on the plan. Where the
    margin is turned, the looks are corrected first. Where another number is, and costs or answers depend on the
    correction, a first search finds about which plan to correct for, and a second one goes with that correction.

    Raises:
        OutOfReach: the strongest pruning falls short of the target.
        SaintpruneError: there is no corrector, and the plan has a correction that was fitted at another strength.
    """
    if corrector is None:
        if Knob.of(plan).name != "defer" and any(look.correction is not None for look in plan.looks):
            raise fitted_for_another()
        return calibrator.search(plan, target, steps, advance)
    if Knob.of(plan).name == "defer":
        return calibrator.search(corrector.corrected(plan, advance), target, steps, advance)
    found = calibrator.search(plan, target, steps, advance)
    if plan.defer is not None or target.kind == "agreement":
        found = calibrator.search(corrector.corrected(found.plan, advance), target, steps, advance)
    with torch.inference_mode():
        corrected = corrector.corrected(found.plan, advance)
        return replace(found, plan=corrected, measured=calibrator.measure(corrected, timed=True))
