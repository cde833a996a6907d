"""Choose among several plans by what each does once it meets a target."""

from __future__ import annotations

from collections.abc import Sequence

from saintprune.calibration.correct import Corrector, search_corrected
from saintprune.calibration.search import Calibrated, Calibrator, OutOfReach
from saintprune.calibration.targets import Target
from saintprune.errors import SaintpruneError
from saintprune.plan import Plan


def best_of(
    calibrator: Calibrator, plans: Sequence[Plan], target: Target, steps: int, corrector: Corrector | None = None
) -> Calibrated:
    """Return the calibrated plan that keeps the most answers, or leaves the fewest FLOPs at a share of them.

    Args:
        calibrator: which has the images.
        plans: one at least; those that cannot meet the target are passed over.
        target: to meet.
        steps: of each search.
        corrector: fits a correction to each plan; None leaves the classifier as it is.

    Raises:
        OutOfReach: no plan meets the target; the error is that of the first.
        SaintpruneError: there are several plans, but the network gives features.
    """
    if len(plans) > 1 and not calibrator.classifies:
        raise SaintpruneError("several methods are chosen among by their answers, but this network gives features")
    found: list[Calibrated] = []
    failed: list[OutOfReach] = []
    for plan in plans:
        try:
            found.append(search_corrected(calibrator, corrector, plan, target, steps))
        except OutOfReach as error:
            failed.append(error)
    if not found:
        raise failed[0]
    if target.kind == "agreement":
        return min(found, key=lambda one: one.measured.flops)
    return max(found, key=lambda one: one.measured.agreement or 0.0)
