"""What data modules of visual question answering share: samples, batches, and how a batch is put together."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from saintprune.data.base import ImageData, UnreadableImage
from saintprune.data.images import DECODE_ERRORS, ImageFile, broken_images, describe_broken, read_rgb, reason_of
from saintprune.data.sampling import mixed_order
from saintprune.errors import SaintpruneError

Prompt = Callable[[str, int], str]  # question, number of images -> the text that the processor takes


@dataclass(frozen=True)
class VQASample:
    """One question.

    Attributes:
        name: What identifies it, and decides its place in the mixed order.
        images: The image files' names below `VQASamples.root`; none for a question about text alone.
        question: As a person would ask it; the model's chat template is put around it later.
        answers: Accepted answers.
        candidates: The closed set that the answer is one of; None where it is open.
        kind: What the question is about; scores are reported per kind too.
    """

    name: str
    images: tuple[str, ...]
    question: str
    answers: tuple[str, ...]
    candidates: tuple[str, ...] | None
    kind: str


@dataclass
class VQABatch:
    """A batch of questions.

    Attributes:
        inputs: What ``net(**inputs)`` and ``net.generate(**inputs)`` take: ``input_ids`` (B, N) and
            ``attention_mask`` (B, N), padded on the left, and ``pixel_values`` etc. where there are images.
        questions: B questions, without chat template.
        answers: B lists of accepted answers.
        candidates: B closed sets of answers; None where one question of the batch is open.
        kinds: B kinds of question.
        images: The names of the images that each question is about.
    """

    inputs: dict[str, Tensor]
    questions: list[str]
    answers: list[list[str]]
    candidates: list[list[str]] | None
    kinds: list[str]
    images: list[tuple[str, ...]]

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.questions)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> VQABatch:
        """Return the batch with its inputs on `device`, and those of floating point as `dtype`."""
        inputs = {
            name: tensor.to(device, dtype if tensor.is_floating_point() else None)
            for name, tensor in self.inputs.items()
        }
        return replace(self, inputs=inputs)


class VQASamples(Dataset):
    """Questions in the given order; items are (sample, its decoded images)."""

    def __init__(self, root: Path, samples: Sequence[VQASample]) -> None:
        """Keep the list; nothing is read before an item is asked for."""
        self.root = root
        self.samples = tuple(samples)

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[VQASample, list[Image.Image]]:
        """Return a question and its images as RGB.

        Raises:
            UnreadableImage: If one of them cannot be decoded.
        """
        sample = self.samples[index]
        try:
            return sample, [read_rgb(self.root / name) for name in sample.images]
        except DECODE_ERRORS as error:
            raise UnreadableImage(f"an image of {sample.name} cannot be read: {reason_of(error)}") from None

    def report(self) -> SaintpruneError:
        """Decode every image once and return an error that counts and names the broken ones."""
        names = dict.fromkeys(name for sample in self.samples for name in sample.images)
        broken = broken_images(self.root.joinpath, [ImageFile(name, -1, "") for name in names])
        return SaintpruneError(describe_broken(broken, len(names), self.root) + "; mend or remove them")


class VQAData(ImageData):
    """Base of the question data modules: batches are `VQABatch`, in a fixed order that mixes images and kinds."""

    def __init__(self, *, processor: Any, prompt: Prompt, **settings: Any) -> None:
        """Keep the settings.

        Args:
            processor: The model's own, of transformers; its tokenizer pads on the left.
            prompt: Puts the model's chat template around a question (``LoadedVLM.prompt``).
            **settings: See `ImageData`; without ``transform`` and ``input_size``.
        """
        super().__init__(**settings)
        self.processor = processor
        self.prompt = prompt

    def collate(self, items: Sequence[tuple[VQASample, list[Image.Image]]]) -> VQABatch:
        """Return one batch; samples may have different numbers of images, or none."""
        samples = [sample for sample, _ in items]
        images = [pictures for _, pictures in items]
        inputs = self.processor(
            text=[self.prompt(sample.question, len(sample.images)) for sample in samples],
            images=images if any(images) else None,
            padding=True,
            return_tensors="pt",
        )
        closed = [list(sample.candidates) for sample in samples if sample.candidates is not None]
        return VQABatch(
            inputs={name: value for name, value in inputs.items() if isinstance(value, Tensor)},
            questions=[sample.question for sample in samples],
            answers=[list(sample.answers) for sample in samples],
            candidates=closed if len(closed) == len(samples) else None,
            kinds=[sample.kind for sample in samples],
            images=[sample.images for sample in samples],
        )

    def _loader_options(self) -> dict[str, Any]:
        if self.processor is None:
            raise SaintpruneError(
                f"dataset {self.name}: a model with random weights has no processor for images and text; "
                "take model.pretrained=true, or task=benchmark dataset=synthetic"
            )
        return {"collate_fn": self.collate, "worker_init_fn": _quiet_tokenizers, "pin_memory": False}


def mixed_samples(samples: Sequence[VQASample]) -> list[VQASample]:
    """Return the samples in their fixed mixed order."""
    return [samples[index] for index in mixed_order([sample.name for sample in samples])]


def _quiet_tokenizers(worker: int) -> None:
    """Keep the tokenizer single-threaded in a loader's worker; it would warn about being forked otherwise."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
