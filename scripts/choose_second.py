"""How a cascade had best answer what its first pass is unsure of, on training images.

    python scripts/choose_second.py RECORD.json pruning=glance_then_ward [KEY=VALUE ...]    as for run.py

Compared at equal FLOPs: the unpruned network at once, the plan's `second` without another look, and the same with one
below several margins; the last two also with the head corrected for each pass (docs/correction.md), on some or all of
the images that it was fitted on. Every image is answered by a head that was fitted on four fifths of the others, as
heads are too sure of the images that they were fitted on. No test image is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from saintprune.adapters.cascade import margins
from saintprune.calibration.search import Calibrator
from saintprune.correction import fit_correction
from saintprune.errors import SaintpruneError
from saintprune.models import heads, probe
from saintprune.parts import Parts, console
from saintprune.plan import Plan
from saintprune.study_script import open_images, run_script, write_study
from saintprune.workbench import outputs

BUDGETS = (0.24, 0.27, 0.3, 0.34, 0.4, 0.45, 0.5)  # FLOPs of all passes
MARGINS = (0.1, 0.15, 0.2, 0.25, 0.3)  # below which the second answer is not believed
STEPS = 200  # of the first margin
CORRECTED_ON = (128, 256, 512, None)  # images; None is all that the head was fitted on


@dataclass(frozen=True)
class Look:
    """What one pass gives for all images, features [images, D] or logits [images, classes], and its share of FLOPs."""

    output: Tensor
    cost: float


def main(path: Path, overrides: list[str]) -> None:
    """Measure, print the table and write the record."""
    parts = open_images(*overrides)
    if len(parts.plan.looks) != 2:
        raise SaintpruneError("the plan has no second to compare: take pruning=glance_then_ward")
    heads.without_classifier(parts.adapter.net)  # another stands for each fold
    images, labels = labelled(parts)
    plans = [replace(look, defer=None, second=None) for look in parts.plan.looks]
    seen, l2 = see(parts, plans, images, labels)
    first, second, whole = looks(seen, labels, l2)
    ways: list[tuple[str, int | None, tuple[Any, ...]]] = [
        ("unpruned", 0, (first, whole)),
        ("pruned", 0, (first, second)),
    ]
    ways += [("pruned", 0, (first, second, whole, margin)) for margin in MARGINS]
    for number in CORRECTED_ON:
        better, best, _ = looks(seen, labels, l2, number)
        ways += [
            ("unpruned", number, (better, whole)),
            ("pruned", number, (better, best, whole, parts.plan.looks[1].defer)),
        ]
    rows: list[dict[str, Any]] = []
    for budget in BUDGETS:
        for name, number, way in ways:
            row, answers = within(budget, *way)
            rows.append({"second": name, "corrected_on": number, **row, **worth(answers, whole, labels)})
    right = whole.output.argmax(1) == labels
    what = "same answers and accuracy of cascades at equal FLOPs, on training images with cross-fitted heads"
    accuracy = right.double().mean().item()
    write_study(path, parts, what, images=len(labels), l2=l2, unpruned_accuracy=accuracy, rows=rows)
    show(rows, accuracy)


def labelled(parts: Parts) -> tuple[list[Tensor], Tensor]:
    """Return all training images, in whole batches [B, C, H, W] on the run's device, and their labels [images].

    Raises:
        SaintpruneError: there are no labels.
    """
    if parts.data.classes is None:
        raise SaintpruneError(f"dataset={parts.names['dataset']} has no labels to fit heads on")
    batches = list(parts.data.train_dataloader())
    full = [batch for batch in batches if len(batch[1]) == len(batches[0][1])]
    images = [images.to(parts.device, parts.hardware.dtype) for images, _ in full]
    return images, torch.cat([labels for _, labels in full])


def see(parts: Parts, plans: list[Plan], images: list[Tensor], labels: Tensor) -> tuple[list[Look], float]:
    """Return the features that each plan and the unpruned network give, and the penalty of heads on them."""
    calibrator = Calibrator(parts.adapter, images[:1], classifies=False)
    costs = [*(calibrator.measure(plan, timed=False).flops for plan in plans), 1.0]
    # clone: the fit differentiates; on the CPU, as the labels are
    features = [outputs(parts, images, plan).clone().cpu() for plan in (*plans, None)]
    return [Look(*look) for look in zip(features, costs, strict=True)], probe.choose_l2(features[-1], labels)[0]


def looks(seen: list[Look], labels: Tensor, l2: float, number: int | None = 0) -> list[Look]:
    """Return what each pass answers to images that its head has not seen.

    Args:
        seen: features, the unpruned ones last.
        labels: [images].
        l2: penalty of the heads.
        number: of images on which each pass but the last is corrected, drawn from those that the head was fitted on;
            None is all of these, 0 no correction.
    """
    found = [torch.zeros(len(labels), int(labels.max()) + 1, dtype=torch.float64) for _ in seen]
    whole = seen[-1].output
    for fold, (head, rows) in enumerate(probe.cross_fits(whole, labels, l2)):
        known = (~rows).nonzero().flatten()
        drawn = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(fold))[:number]]
        for look, answer in zip(seen, found, strict=True):
            answer[rows] = head.logits(look.output[rows])
            if number != 0 and look is not seen[-1]:
                features = look.output[drawn]
                change = fit_correction(features, head.logits(features), head.logits(whole[drawn]))
                answer[rows] += look.output[rows].double() @ change.weight.double().T + change.bias
    return [Look(answer, look.cost) for answer, look in zip(found, seen, strict=True)]


def within(
    budget: float, first: Look, second: Look, third: Look | None = None, margin: float = 0.0
) -> tuple[dict[str, float], Tensor]:
    """Return the cascade with the widest first margin that keeps to a budget, and its answers [images].

    Args:
        budget: share of the unpruned FLOPs.
        first: answers what it is sure of.
        second: answers the rest.
        third: answers what the second is unsure of; None is nothing.
        margin: below which the second is.
    """
    found: tuple[dict[str, float], Tensor] | None = None
    sure, doubtful = margins(first.output), margins(second.output) < margin
    for step in range(STEPS):
        unsure = sure < step / STEPS
        again = unsure & doubtful
        shares = [chosen.double().mean().item() for chosen in (unsure, again)]
        cost = first.cost + shares[0] * second.cost + (shares[1] * third.cost if third else 0.0)
        if cost > budget:
            break
        answers = torch.where(unsure, second.output.argmax(1), first.output.argmax(1))
        answers = answers if third is None else torch.where(again, third.output.argmax(1), answers)
        row = {
            "budget": budget, "cost": cost, "first_margin": step / STEPS, "second_margin": margin,
            "deferred": shares[0], "deferred_twice": shares[1],
        }  # fmt: skip
        found = row, answers
    if found is None:
        raise SaintpruneError(f"the first pass alone takes {first.cost:.2f} of the FLOPs, more than {budget:g}")
    return found


def worth(answers: Tensor, unpruned: Look, labels: Tensor) -> dict[str, float]:
    """Return the shares of answers [images] that are the unpruned network's, and that are right."""
    same = answers == unpruned.output.argmax(1)
    return {"agreement": same.double().mean().item(), "accuracy": (answers == labels).double().mean().item()}


def show(rows: list[dict[str, Any]], unpruned: float) -> None:
    """Print same answers and accuracy, a row per way to answer and a column per budget."""
    table = Table(title=f"same answers, accuracy (unpruned {unpruned:.1%}) by share of the FLOPs")
    for name in ("second pass", *(f"{budget:g}" for budget in BUDGETS)):
        table.add_column(name, justify="right")
    ways: dict[str, list[str]] = {}
    for row in rows:
        third = f", below {row['second_margin']:g} a third" if row["second_margin"] else ""
        on = {0: "", None: ", corrected on all"}.get(row["corrected_on"], f", corrected on {row['corrected_on']}")
        ways.setdefault(row["second"] + third + on, []).append(f"{row['agreement']:.1%}, {row['accuracy']:.1%}")
    for name, cells in ways.items():
        table.add_row(name, *cells)
    console.print(table)


if __name__ == "__main__":
    run_script(main, __doc__)
