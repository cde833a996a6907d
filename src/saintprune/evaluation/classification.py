"""Score a network, pruned beside unpruned, on the same images in one pass over the data."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torchmetrics import CatMetric, MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from saintprune.adapters.base import ViTAdapter
from saintprune.metrics.intervals import bootstrap, mean
from saintprune.metrics.samples import Samples
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
        samples: the answers one by one; None where there are none, or where several processes shared them out.
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


class TokensPerLayer(Metric):
    """Mean tokens per sample that leave each block."""

    total: Tensor
    samples: Tensor

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(depth), dist_reduce_fx="sum")
        self.add_state("samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, tokens: Tensor, samples: int) -> None:
        """Add a batch: its mean tokens [depth] and its number of samples."""
        self.total += tokens.to(self.total) * samples
        self.samples += samples

    def compute(self) -> Tensor:
        """Return [depth]."""
        return self.total / self.samples


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
        self.seen: dict[str, list[Tensor]] = {"same": [], "baseline_right": [], "pruned_right": []}
        self.net, self.adapter, self.plan = adapter.net, adapter, plan
        self.answers, self.labelled = num_classes > 0, labelled and num_classes > 0
        classes = max(num_classes, 2)
        self.accuracy: Any = torch.nn.ModuleDict(
            {arm: MulticlassAccuracy(classes, average="micro") for arm in ("baseline", "pruned")}
        )
        self.agreement, self.cosine, self.change = MeanMetric(), MeanMetric(), CatMetric()
        self.tokens: Any = torch.nn.ModuleDict({arm: TokensPerLayer(adapter.depth) for arm in ("baseline", "pruned")})
        self.scores: Scores | None = None

    def on_test_start(self) -> None:
        """Keep the sums precise: Lightning casts metrics along with a network in half precision."""
        precise = torch.float32 if self.device.type == "mps" else torch.float64
        for metric in (self.agreement, self.cosine, *self.tokens.values()):
            metric.set_dtype(precise)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Score one batch: images [B, C, H, W] and labels [B]."""
        images, labels = batch
        outputs = {"baseline": self._untouched(images, batch_idx)}
        with self.adapter.pruned(self.plan) as run:
            outputs["pruned"] = self.net(images)
        for arm, tokens in (("baseline", [run.tokens_at_entry] * self.adapter.depth), ("pruned", run.tokens_per_layer)):
            self.tokens[arm].update(torch.tensor(tokens), len(images))
        self.cosine.update(torch.cosine_similarity(outputs["baseline"].float(), outputs["pruned"].float(), dim=-1))
        if self.answers:
            self._score_answers({arm: output.argmax(-1) for arm, output in outputs.items()}, labels)

    def _untouched(self, images: Tensor, batch_idx: int) -> Tensor:
        """Return the outputs [B, N] of the untouched network."""
        if self.unpruned is None:
            return self.net(images)
        if batch_idx not in self.unpruned:
            self.unpruned[batch_idx] = self.net(images).cpu()
        return self.unpruned[batch_idx].to(images.device)

    def _score_answers(self, answers: dict[str, Tensor], labels: Tensor) -> None:
        same = answers["baseline"] == answers["pruned"]
        self.agreement.update(same.float())
        self.seen["same"].append(same.cpu())
        if self.labelled:
            for arm, answer in answers.items():
                self.accuracy[arm].update(answer, labels)
            right = {arm: answer == labels for arm, answer in answers.items()}
            self.change.update(right["pruned"].float() - right["baseline"].float())
            for arm, values in right.items():
                self.seen[f"{arm}_right"].append(values.cpu())

    def on_test_epoch_end(self) -> None:
        """Gather the scores."""
        self.scores = Scores(
            num_samples=int(self.tokens["baseline"].samples),
            baseline_accuracy=self.accuracy["baseline"].compute().item() if self.labelled else None,
            pruned_accuracy=self.accuracy["pruned"].compute().item() if self.labelled else None,
            accuracy_change_ci95=bootstrap(self.change.compute(), mean) if self.labelled else None,
            agreement=self.agreement.compute().item() if self.answers else None,
            output_cosine=self.cosine.compute().item(),
            baseline_tokens=self.tokens["baseline"].compute().tolist(),
            pruned_tokens=self.tokens["pruned"].compute().tolist(),
            samples=self._samples(),
        )

    def _samples(self) -> Samples | None:
        """Return the answers one by one; a process that saw only some of the batches has none to tell."""
        if not self.answers or self.trainer.world_size > 1:
            return None
        return Samples(**{name: torch.cat(values) for name, values in self.seen.items() if values})


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
    with warnings.catch_warnings():
        # lightning 2.6 makes a LeafSpec for its loaders, which torch has deprecated; nothing that a user could mend
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        L.Trainer(
            logger=False, enable_checkpointing=False, enable_model_summary=False, inference_mode=True, **trainer
        ).test(module, datamodule=data, verbose=False)
    assert module.scores is not None
    return module.scores
