"""What a loader hands back: a network ready to run, and everything needed to feed and to name it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class LoadedModel:
    """A network in eval mode without gradients, with its own transform.

    Attributes:
        net: The network; ``net(images)`` gives logits (B, num_classes), or pooled features (B, D) if there are none.
        transform: PIL RGB image -> float tensor (3, H, W), as the weights expect it.
        architecture: The architecture's name in its own framework.
        input_size: (C, H, W) in pixels.
        num_classes: Width of the logits; 0 means that the net has no classifier.
        mean: Mean per channel that `transform` subtracts, for plots that undo it.
        std: Standard deviation per channel that `transform` divides by.
        source: Where the weights came from, for the run record; JSON-ready.
        classes: The names of the logits, or None if unknown.
    """

    net: nn.Module
    transform: Callable[[Any], Tensor]
    architecture: str
    input_size: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: Mapping[str, Any]
    classes: tuple[str, ...] | None = None

    @property
    def weights_sha256(self) -> str | None:
        """The digest that identifies the weights; None for random or unidentified ones."""
        return self.source.get("sha256")
