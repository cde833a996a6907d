"""What the text of a prompt says, for methods that choose image tokens by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Instruction:
    """The prompts of a batch while their images are encoded.

    Attributes:
        embed: returns [B, T, D], embeddings of the prompts' tokens.
        visual: [B, T] bool, the image tokens.
        valid: [B, T] bool, False marks padding; None means that all are real.
    """

    embed: Callable[[], Tensor]
    visual: Tensor
    valid: Tensor | None = None

    def of_images(self, lengths: Sequence[int]) -> Tensor:
        """Return [images, D] float32: the mean embedding of the text in each image's own prompt; 0 without text.

        All real tokens that belong to no image count, the template's as well.

        Args:
            lengths: tokens of each image, in the order of the batch.
        """
        text = ~self.visual if self.valid is None else ~self.visual & self.valid
        embedded = self.embed().float() * text[..., None]
        mean = embedded.sum(1) / text.sum(1, keepdim=True).clamp_min(1)  # (b, d)
        sample = self.visual.nonzero()[:, 0]  # of each image token, in the order of the batch
        if not len(sample):
            return mean.new_zeros(len(lengths), mean.shape[-1])
        size = torch.tensor(list(lengths), device=sample.device)
        first = (size.cumsum(0) - size).clamp_max(len(sample) - 1)
        return mean[sample[first]]


def relevance(tokens: Tensor, text: Tensor) -> Tensor:
    """Return [R, m]: the cosines of image features [R, m, D] with the mean embedding [R, D] of their prompts."""
    return (F.normalize(tokens.float(), dim=-1) @ F.normalize(text, dim=-1)[..., None])[..., 0]
