"""Gathers the statistics of one part of a model, layer by layer and pass by pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from saintprune.analysis.curves import Curves
from saintprune.analysis.similarity import edges
from saintprune.analysis.statistics import Statistics
from saintprune.errors import SaintpruneError


class Recorder:
    """Holds numbers only: per image, layer and metric one float32, per layer and histogram its counts.

    Args:
        part: see `Curves`.
        layers: how many layers add their statistics in every pass.
        rank_every: one image in so many gets an effective rank of its states.
    """

    def __init__(self, part: str, layers: int, rank_every: int) -> None:
        self.part, self.layers, self.rank_every = part, layers, rank_every
        self.images = 0
        self._pass: list[Statistics] = []
        self._names: list[str] = []
        self._values: list[Tensor] = []  # per pass [images, layers, metrics]
        self._histograms: dict[str, Tensor] = {}

    @property
    def ranked(self) -> slice:
        """The images of the pass under way that get an effective rank, whatever the size of the batches."""
        return slice(-self.images % self.rank_every, None, self.rank_every)

    def add(self, layer: int, found: Statistics) -> None:
        """Add the next layer of the pass under way.

        Raises:
            SaintpruneError: the network runs its layers more than once, or in another order.
        """
        if layer != len(self._pass):
            raise SaintpruneError(
                f"a trace needs a network that runs its {self.layers} layers once and in order, but layer {layer} of"
                f" {self.part} ran as number {len(self._pass)}"
            )
        self._pass.append(found)

    def end_pass(self) -> None:
        """Take the pass's numbers off the device; a pass in which this part did not run is passed over."""
        if not self._pass:
            return
        self._names = list(self._pass[0].values)
        layers = [torch.stack([found.values[name] for name in self._names], -1) for found in self._pass]
        self._values.append(torch.stack(layers, 1).float().cpu())
        for name in self._pass[0].histograms:
            counts = torch.stack([found.histograms[name] for found in self._pass]).cpu()
            self._histograms[name] = self._histograms[name] + counts if name in self._histograms else counts
        self.images += len(self._values[-1])
        self._pass = []

    def curves(self, meta: Mapping[str, Any]) -> Curves | None:
        """Return what was gathered; None where no image had anything to tell."""
        if not self._values:
            return None
        values = torch.cat(self._values)
        if values.isnan().all():
            return None
        return Curves(
            part=self.part,
            layers=self.layers,
            values={name: values[..., number].double() for number, name in enumerate(self._names)},
            histograms=dict(self._histograms),
            edges={name: edges() for name in self._histograms},
            meta={**meta, "rank_every": self.rank_every},
        )
