"""The tiny model of `tiny_vlm` as a loader gives it, and questions about noise, for the path from config to record."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

import tiny_vlm
from saintprune.data.vqa import VQAData, VQASample

CANDIDATES = {"a": ("yes", "no"), "b": ("alpha", "no", "by no means")}


@dataclass(frozen=True)
class Model:
    """As `saintprune.models.vlm.LoadedVLM`."""

    net: Any
    processor: Any
    source: Mapping[str, Any]
    prompt: Callable[..., str]
    architecture: str = "LlavaForConditionalGeneration"


def load(depth: int = 4, published: int | None = None, reads: bool = True) -> Model:
    """Return the model; with `published`, as if its layers were some of so many; without `reads`, no processor."""
    tiny = tiny_vlm.load(depth)
    source = {"weights": "random"}
    if published is not None:
        source["layers"] = {
            "language": {"sampled": depth, "published": published}, "vision": {"sampled": 2, "published": 6}
        }  # fmt: skip
    return Model(tiny.net, tiny.processor if reads and published is None else None, source, tiny.prompt)


class Questions(VQAData):
    """Questions of two kinds, one of which has candidates, about pictures of noise."""

    name = "questions"
    licence = "none needed"

    def __init__(self, *, size: int = 7, answers: tuple[str, ...] = ("yes",), closed: str = "ab", **settings) -> None:
        super().__init__(**settings)
        self.size, self.accepted, self.closed = size, answers, closed

    def test_split(self):
        generator = torch.Generator().manual_seed(0)
        found = []
        for number in range(self.size):
            pixels = torch.randint(256, (60, 80, 3), generator=generator, dtype=torch.uint8)
            kind = "ab"[number % 2]
            sample = VQASample(
                name=str(number),
                images=(f"{number // 2}.png",),
                question="What is it? " * (number % 3 + 1),
                answers=(self.accepted[number % len(self.accepted)],),
                candidates=CANDIDATES[kind] if kind in self.closed else None,
                kind=kind,
            )
            found.append((sample, [Image.fromarray(pixels.numpy())]))
        return found

    train_split = test_split


def batches(data):
    """Return the batches of a data module."""
    return list(data.test_dataloader())
