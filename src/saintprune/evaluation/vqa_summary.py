"""From what was right in each batch of questions to the scores of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saintprune.evaluation.vlm_passes import TokenCounts
from saintprune.metrics.intervals import interval_of_mean
from saintprune.metrics.samples import Samples

ARMS = ("baseline", "pruned")


@dataclass(frozen=True)
class Answered:
    """A batch of B questions, answered by the untouched and by the pruned model.

    Attributes:
        kinds: B kinds of question.
        images: the names of the images that each of them is about.
        right: per arm, whether each generated answer is an accepted one.
        same: whether both arms generated the same, after `normalised`.
        likely: per arm, whether the likeliest candidate is an accepted answer; None where a question has no candidates.
        likely_same: whether both arms found the same candidate likeliest.
        counts: per arm, the tokens that were left.
    """

    kinds: Sequence[str]
    images: Sequence[tuple[str, ...]]
    right: Mapping[str, Sequence[bool]]
    same: Sequence[bool]
    likely: Mapping[str, Sequence[bool]] | None
    likely_same: Sequence[bool] | None
    counts: Mapping[str, TokenCounts]


@dataclass(frozen=True)
class ArmScores:
    """What one way of running the model found: shares 0..1, and mean tokens of a sample (see `TokenCounts`)."""

    accuracy: float
    accuracy_by_kind: dict[str, float]
    likelihood_accuracy: float | None
    likelihood_accuracy_by_kind: dict[str, float] | None
    tokens_per_layer: list[float]
    visual_tokens_per_layer: list[float]
    tower_tokens_per_block: list[float] | None


@dataclass(frozen=True)
class VQAScores:
    """What a pass over the questions found; likelihoods are None where no question has candidates.

    Attributes:
        num_samples: questions.
        samples_by_kind: the same, per kind.
        baseline: the untouched model.
        pruned: the pruned one.
        accuracy_change_ci95: paired bootstrap interval of the change of accuracy, over images, each with all
            of its questions.
        likelihood_accuracy_change_ci95: the same, of the accuracy by likelihood.
        agreement: share of questions to which both generate the same answer, right or wrong.
        likelihood_agreement: share of questions with candidates of which both find the same one likeliest.
        samples: the answers one by one.
    """

    num_samples: int
    samples_by_kind: dict[str, int]
    baseline: ArmScores
    pruned: ArmScores
    accuracy_change_ci95: tuple[float, float]
    likelihood_accuracy_change_ci95: tuple[float, float] | None
    agreement: float
    likelihood_agreement: float | None
    samples: Samples


def summarised(batches: Sequence[Answered]) -> VQAScores:
    """Return the scores over batches of questions."""
    kinds = [kind for batch in batches for kind in batch.kinds]
    closed = [batch for batch in batches if batch.likely is not None]
    return VQAScores(
        num_samples=len(kinds),
        samples_by_kind=dict(sorted(Counter(kinds).items())),
        baseline=_arm("baseline", batches, closed),
        pruned=_arm("pruned", batches, closed),
        accuracy_change_ci95=_change([batch.right for batch in batches], batches),
        likelihood_accuracy_change_ci95=(
            _change([batch.likely for batch in closed if batch.likely], closed) if closed else None
        ),
        agreement=_share([same for batch in batches for same in batch.same]),
        likelihood_agreement=_share([same for b in closed for same in b.likely_same or ()]) if closed else None,
        samples=Samples(
            same=torch.tensor([same for batch in batches for same in batch.same]),
            **{f"{arm}_right": torch.tensor([one for batch in batches for one in batch.right[arm]]) for arm in ARMS},
            groups=_groups(batches),
        ),
    )


def _arm(arm: str, batches: Sequence[Answered], closed: Sequence[Answered]) -> ArmScores:
    right = [pair for batch in batches for pair in zip(batch.kinds, batch.right[arm], strict=True)]
    likely = [pair for batch in closed if batch.likely for pair in zip(batch.kinds, batch.likely[arm], strict=True)]
    counts = [(batch.counts[arm], len(batch.kinds)) for batch in batches]
    tower = [(count.tower, samples) for count, samples in counts if count.tower is not None]
    return ArmScores(
        accuracy=_share([value for _, value in right]),
        accuracy_by_kind=_by_kind(right),
        likelihood_accuracy=_share([value for _, value in likely]) if closed else None,
        likelihood_accuracy_by_kind=_by_kind(likely) if closed else None,
        tokens_per_layer=_weighted([(count.layers, samples) for count, samples in counts]),
        visual_tokens_per_layer=_weighted([(count.visual, samples) for count, samples in counts]),
        tower_tokens_per_block=_weighted(tower) if tower else None,
    )


def _by_kind(pairs: Sequence[tuple[str, bool]]) -> dict[str, float]:
    """Return the share of right answers of each kind of question."""
    return {kind: _share([right for other, right in pairs if other == kind]) for kind in sorted(dict(pairs))}


def _change(right: Sequence[Mapping[str, Sequence[bool]]], batches: Sequence[Answered]) -> tuple[float, float]:
    """Return the interval of the mean difference, pruned minus baseline, of what was right in batches."""
    values = {arm: torch.tensor([value for batch in right for value in batch[arm]]).double() for arm in ARMS}
    return interval_of_mean(values["pruned"] - values["baseline"], _groups(batches))


def _groups(batches: Sequence[Answered]) -> Tensor:
    """Return a number per question, int64 [n]: alike where they are about the same images, its own where about none."""
    numbers: dict[object, int] = {}
    images = [names for batch in batches for names in batch.images]
    return torch.tensor([numbers.setdefault(names or index, len(numbers)) for index, names in enumerate(images)])


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


def _weighted(rows: Sequence[tuple[list[float], int]]) -> list[float]:
    """Return the mean of lists of numbers, weighted by samples."""
    numbers = torch.tensor([row for row, _ in rows], dtype=torch.float64)
    weights = torch.tensor([samples for _, samples in rows], dtype=torch.float64)
    return (numbers * weights[:, None]).sum(0).div(weights.sum()).tolist()
