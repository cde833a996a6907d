"""What a network answered to each sample of a test set, and how two ways of pruning differ on the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from saintprune.errors import SaintpruneError
from saintprune.metrics.intervals import interval_of_mean


@dataclass(frozen=True)
class Samples:
    """Answers to n samples, in the order of the test set.

    Attributes:
        same: bool [n], whether the pruned network answers as the unpruned one.
        baseline_right: bool [n], whether the unpruned answer is right; None without labels.
        pruned_right: the same, pruned.
        groups: int64 [n], alike for questions about the same images, which intervals take as one; None where each
            sample stands by itself, and in older files.
    """

    same: Tensor
    baseline_right: Tensor | None = None
    pruned_right: Tensor | None = None
    groups: Tensor | None = None


def output_cosine(unpruned: Tensor, pruned: Tensor) -> Tensor:
    """Return the cosine of the two networks' outputs for each sample, float32 [n] on the CPU.

    Args:
        unpruned: logits or features [n, D].
        pruned: the same, pruned.
    """
    cosine = torch.cosine_similarity(unpruned.float(), pruned.float(), dim=-1)
    return cosine.clamp(-1, 1).cpu()  # rounding alone exceeds 1 where nothing changed


def concatenated(parts: Sequence[Samples]) -> Samples | None:
    """Return the answers of consecutive parts of a test set as one; None where there is none."""
    if not parts:
        return None
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(Samples)}
    return Samples(**{name: torch.cat(column) for name, column in columns.items() if column[0] is not None})


@dataclass(frozen=True)
class Difference:
    """A mean over samples of one run (or several) minus another's, with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def paired_difference(first: Sequence[Samples], second: Sequence[Samples]) -> dict[str, Difference]:
    """Return how far the first is above the second, sample by sample.

    Args:
        first: the runs of one way of pruning, one per seed; their answers are averaged per sample before anything else.
        second: the runs of another, of the same network over the same samples.

    Returns:
        "agreement" and, where there are labels, "accuracy".

    Raises:
        SaintpruneError: the runs are not of the same network and samples.
    """
    runs = [*first, *second]
    if not first or not second:
        raise SaintpruneError("a paired difference needs at least one run on each side, but one side has none")
    if len({len(run.same) for run in runs}) > 1:
        sizes = ", ".join(str(len(run.same)) for run in runs)
        raise SaintpruneError(f"the runs have {sizes} samples: compare runs over the same test set (dataset.limit)")
    labelled = all(run.pruned_right is not None and run.baseline_right is not None for run in runs)
    if labelled and any(not torch.equal(_known(run.baseline_right), _known(runs[0].baseline_right)) for run in runs):
        raise SaintpruneError(
            "the unpruned network was right about other samples in some of the runs, so they are not of the same"
            " network and samples in the same order: run them anew with one model, dataset and precision"
        )
    groups = next((run.groups for run in runs if run.groups is not None), None)  # of the same samples, so of all runs
    found = {"agreement": _difference([run.same for run in first], [run.same for run in second], groups)}
    if labelled:
        ours, theirs = ([_known(run.pruned_right) for run in side] for side in (first, second))
        found["accuracy"] = _difference(ours, theirs, groups)
    return found


def _known(values: Tensor | None) -> Tensor:
    assert values is not None
    return values


def _difference(first: Sequence[Tensor], second: Sequence[Tensor], groups: Tensor | None) -> Difference:
    values = torch.stack(list(first)).double().mean(0) - torch.stack(list(second)).double().mean(0)
    return Difference(values.mean().item(), *interval_of_mean(values, groups))
