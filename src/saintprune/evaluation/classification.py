"""Score a network, pruned beside unpruned, on the same images in one pass over the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor

from saintprune.adapters.base import ViTAdapter
from saintprune.evaluation.sharing import gathered, number_of, run_test
from saintprune.metrics.intervals import bootstrap, mean
from saintprune.metrics.samples import Samples, concatenated, output_cosine
from saintprune.plan import Plan


@dataclass(frozen=True)
class Scores:
    """What a pass over the test data found; None where there are no labels or no classes.

    Attributes:
        num_samples: images.
        baseline_accuracy: share of right answers of the untouched network, 0..1.
        pruned_accuracy: the same, pruned.
        accuracy_change_ci95: paired bootstrap interval of the difference.
        agreement: share of images that both answer alike, right or wrong.
        output_cosine: mean cosine of the two outputs (logits or features).
        baseline_tokens: mean tokens per sample that leave each block.
        pruned_tokens: the same, pruned.
        samples: the answers one by one; None where there are none.
        deferred: share of images that were answered anew; None where the plan does not defer.
        deferred_twice: share of images whose second answer was unsure too; None where the plan does not defer.
    """

    num_samples: int
    baseline_accuracy: float | None
    pruned_accuracy: float | None
    accuracy_change_ci95: tuple[float, float] | None
    agreement: float | None
    output_cosine: float
    baseline_tokens: list[float]
    pruned_tokens: list[float]
    samples: Samples | None = None
    deferred: float | None = None
    deferred_twice: float | None = None


@dataclass(frozen=True)
class SeenBatch:
    """What a batch of B images showed.

    Attributes:
        cosine: of the two outputs, float64 [B].
        tokens: per arm, mean tokens per sample that leave each block.
        answers: B answers; None where the network gives features.
        deferred: [B] int64, how often each image was answered anew; None where the plan does not defer.
    """

    cosine: Tensor
    tokens: Mapping[str, Sequence[float]]
    answers: Samples | None
    deferred: Tensor | None = None


class PrunedClassification(L.LightningModule):
    """Runs each batch through the network untouched and pruned; `Trainer.test` gathers `scores`.

    Args:
        adapter: of the network.
        plan: what to prune.
        num_classes: of the network's answers; 0 where it gives features.
        labelled: whether batches carry labels.
        unpruned: outputs of the untouched network, by number of the batch; what is missing is computed and noted. Runs
            of one network over the same batches may share it; None computes all and notes nothing.
    """

    def __init__(
        self,
        adapter: ViTAdapter,
        plan: Plan,
        num_classes: int,
        labelled: bool,
        unpruned: dict[int, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.unpruned = unpruned
        self.batches: list[SeenBatch] = []
        self.net, self.adapter, self.plan = adapter.net, adapter, plan
        self.answers, self.labelled = num_classes > 0, labelled and num_classes > 0
        self.scores: Scores | None = None

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Score one batch: images [B, C, H, W] and labels [B]."""
        images, labels = batch
        baseline = self._untouched(images, number_of(self, batch_idx))
        with self.adapter.pruned(self.plan) as run:
            pruned = self.net(images)
        self.batches.append(
            SeenBatch(
                cosine=output_cosine(baseline, pruned).double(),
                tokens={"baseline": [run.tokens_at_entry] * self.adapter.depth, "pruned": run.tokens_per_layer},
                answers=self._answers(baseline.argmax(-1), pruned.argmax(-1), labels) if self.answers else None,
                deferred=None if run.times_deferred is None else run.times_deferred.cpu(),
            )
        )

    def _untouched(self, images: Tensor, number: int) -> Tensor:
        """Return the outputs [B, N] of the untouched network."""
        if self.unpruned is None:
            return self.net(images)
        if number not in self.unpruned:
            self.unpruned[number] = self.net(images).cpu()
        return self.unpruned[number].to(images.device)

    def _answers(self, baseline: Tensor, pruned: Tensor, labels: Tensor) -> Samples:
        """Return what two lists of answers [B] are worth."""
        same = (baseline == pruned).cpu()
        if not self.labelled:
            return Samples(same)
        return Samples(same, (baseline == labels).cpu(), (pruned == labels).cpu())

    def on_test_epoch_end(self) -> None:
        """Gather the scores, of all processes where there are several."""
        self.scores = summarised(gathered(self, self.batches))


def summarised(batches: Sequence[SeenBatch]) -> Scores:
    """Return the scores over batches of images."""
    cosine = torch.cat([batch.cosine for batch in batches])
    samples = concatenated([batch.answers for batch in batches if batch.answers is not None])
    deferred = [batch.deferred for batch in batches if batch.deferred is not None]
    times = torch.cat(deferred) if deferred else None
    before, after = (samples.baseline_right, samples.pruned_right) if samples else (None, None)
    return Scores(
        num_samples=len(cosine),
        baseline_accuracy=_share(before),
        pruned_accuracy=_share(after),
        accuracy_change_ci95=_change(before, after),
        agreement=_share(samples.same) if samples else None,
        output_cosine=cosine.mean().item(),
        baseline_tokens=_mean_tokens("baseline", batches),
        pruned_tokens=_mean_tokens("pruned", batches),
        samples=samples,
        deferred=None if times is None else _share(times > 0),
        deferred_twice=None if times is None else _share(times > 1),
    )


def _change(before: Tensor | None, after: Tensor | None) -> tuple[float, float] | None:
    """Return the interval of the mean difference."""
    return None if before is None or after is None else bootstrap(after.double() - before.double(), mean)


def _share(values: Tensor | None) -> float | None:
    """Return the share of True."""
    return None if values is None else values.double().mean().item()


def _mean_tokens(arm: str, batches: Sequence[SeenBatch]) -> list[float]:
    """Return the mean tokens per sample that leave each block [depth]."""
    tokens = torch.tensor([batch.tokens[arm] for batch in batches], dtype=torch.float64)
    samples = torch.tensor([len(batch.cosine) for batch in batches], dtype=torch.float64)
    return (samples @ tokens / samples.sum()).tolist()


def score(
    adapter: ViTAdapter,
    plan: Plan,
    data: L.LightningDataModule,
    num_classes: int,
    labelled: bool,
    unpruned: dict[int, Tensor] | None = None,
    **trainer: Any,
) -> Scores:
    """Return the scores on the data's test split; `trainer` are arguments of Lightning's Trainer."""
    module = PrunedClassification(adapter, plan, num_classes, labelled, unpruned)
    run_test(module, data, **trainer)
    assert module.scores is not None
    return module.scores
