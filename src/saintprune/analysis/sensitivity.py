"""Drop sensitivity: what it costs to prune a fixed share of the tokens at one layer alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from saintprune.adapters.base import ViTAdapter
from saintprune.analysis.passes import Outcome, depth_of, passes_of
from saintprune.errors import SaintpruneError
from saintprune.metrics.intervals import bootstrap, mean
from saintprune.metrics.samples import output_cosine
from saintprune.plan import Plan, Schedule, Stage
from saintprune.reduction import Reducer
from saintprune.reduction.baselines import RandomDrop
from saintprune.reduction.saint import Saint
from saintprune.reduction.tome import ToMe

if TYPE_CHECKING:
    from saintprune.adapters.vlm import VLM

METHODS: Mapping[str, Reducer] = {"random": RandomDrop(), "saint": Saint(), "tome": ToMe()}


@dataclass(frozen=True)
class Sensitivity:
    """One method at one layer; intervals are 95 % bootstrap intervals over the images.

    Attributes:
        method: its name.
        layer: 0-based number of the one pruned layer.
        share: of the patches (image tokens) that was to be dropped.
        dropped: share that was: SAINT and ToMe drop at most half of the patches in one layer.
        samples: number of images (prompts).
        feature_cosine: mean cosine of the pruned and the unpruned features that the classifier reads, of a
            vision-language model the state that the first token of the answer is read from.
        feature_cosine_ci95: its interval.
        agreement: share of images that are answered as without pruning; None where the network gives features. Of a
            vision-language model, the share of prompts whose answer begins with the same token.
        agreement_ci95: its interval.
        accuracy: share of right answers; None without labels.
        accuracy_change: accuracy minus that of the unpruned network.
        accuracy_change_ci95: its interval, of paired differences.
    """

    method: str
    layer: int
    share: float
    dropped: float
    samples: int
    feature_cosine: float
    feature_cosine_ci95: tuple[float, float]
    agreement: float | None = None
    agreement_ci95: tuple[float, float] | None = None
    accuracy: float | None = None
    accuracy_change: float | None = None
    accuracy_change_ci95: tuple[float, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return asdict(self)


def drop_sensitivity(
    adapter: ViTAdapter | VLM,
    batches: Iterable[Any],
    *,
    share: float = 0.3,
    methods: Mapping[str, Reducer] = METHODS,
    layers: Sequence[int] | None = None,
    site: str = "vision",
    classifies: bool = True,
    advance: Callable[[int], None] = lambda images: None,
) -> list[Sensitivity]:
    """Prune at one layer at a time; return a row per method and layer, in that order.

    Each batch goes once through the unpruned network and once per row through the pruned one.

    Args:
        adapter: of the network.
        batches: images, alone or with labels; prompts for a vision-language model.
        share: of the patches to drop, above 0 and below 1, the same for all methods.
        methods: by name; a schedule drives them, so that all drop the same number.
        layers: 0-based numbers; None is all layers of the site.
        site: "vision", or of a vision-language model also "language".
        classifies: whether a ViT's outputs are logits.
        advance: is told after each batch how many images are done.

    Raises:
        SaintpruneError: there are no batches, or a layer or a site that the network lacks.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}, but must lie between 0 and 1")
    depth = depth_of(adapter, site)
    chosen = range(depth) if layers is None else layers
    plans = {
        (name, layer): Plan({"drop": Stage(site, (layer,), method, Schedule(drop=share))})
        for name, method in methods.items()
        for layer in chosen
    }
    for plan in plans.values():
        plan.at(site, depth)  # a layer that is not there is told before the first pass
    found = {key: _Found() for key in plans}
    done = 0
    with torch.inference_mode():
        for batch in batches:
            forward, labels = passes_of(adapter, batch, site)
            whole = forward(Plan())
            for key, plan in plans.items():
                found[key].add(whole, forward(plan), labels)
            done += len(whole.outputs)
            advance(done)
    if not done:
        raise SaintpruneError("there are no batches to measure: give a dataset with images or prompts")
    answers = classifies or not isinstance(adapter, ViTAdapter)
    return [_row(name, layer, share, values, answers) for (name, layer), values in found.items()]


@dataclass
class _Found:
    """What a row's passes found so far, per image: tensors [B] on the CPU."""

    cosine: list[Tensor] = field(default_factory=list)
    same: list[Tensor] = field(default_factory=list)
    right: list[Tensor] = field(default_factory=list)
    change: list[Tensor] = field(default_factory=list)
    dropped: list[float] = field(default_factory=list)

    def add(self, whole: Outcome, pruned: Outcome, labels: Tensor | None) -> None:
        """Add a batch: the unpruned and the pruned pass, and labels [B]."""
        self.cosine.append(output_cosine(whole.features, pruned.features))
        answer, before = pruned.outputs.argmax(-1).cpu(), whole.outputs.argmax(-1).cpu()
        self.same.append((answer == before).float())
        self.dropped.append(pruned.dropped * len(answer))
        if labels is not None:
            labels = labels.cpu()
            self.right.append((answer == labels).float())
            self.change.append(self.right[-1] - (before == labels).float())


def _row(method: str, layer: int, share: float, found: _Found, answers: bool) -> Sensitivity:
    """Return the row of one method at one layer."""
    cosine, cosine_ci95 = _mean(found.cosine)
    samples = sum(len(part) for part in found.cosine)
    agreement, agreement_ci95 = _mean(found.same) if answers else (None, None)
    labelled = answers and sum(len(part) for part in found.right) == samples
    change, change_ci95 = _mean(found.change) if labelled else (None, None)
    return Sensitivity(
        method=method,
        layer=layer,
        share=share,
        dropped=sum(found.dropped) / samples,
        samples=samples,
        feature_cosine=cosine,
        feature_cosine_ci95=cosine_ci95,
        agreement=agreement,
        agreement_ci95=agreement_ci95,
        accuracy=torch.cat(found.right).double().mean().item() if labelled else None,
        accuracy_change=change,
        accuracy_change_ci95=change_ci95,
    )


def _mean(parts: list[Tensor]) -> tuple[float, tuple[float, float]]:
    """Return the mean of one value per image, and its interval."""
    values = torch.cat(parts).double()
    return values.mean().item(), bootstrap(values, mean)
