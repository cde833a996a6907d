"""Fit the projector between a frozen tower and a frozen language model, by the answers that it leads to.

A step keeps a random share of the visual tokens, in their own positions: the projector shall serve pruned models too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu

from saintprune.models.vlm_reader import Examples, Reader, draw, gather

BATCH = 16  # images per pass without gradients


@dataclass(frozen=True)
class FitSettings:
    """How to fit.

    Attributes:
        steps: of AdamW, with a cosine from the learning rate to zero after a short warm-up.
        images: per step.
        learning_rate: at its highest.
        weight_decay: of the matrices.
        keep: range of the share of visual tokens, drawn evenly.
        full: every so many steps all visual tokens stay.
        seed: of weights, order and shares.
    """

    steps: int = 200
    images: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    keep: tuple[float, float] = (0.1, 1.0)
    full: int = 4
    seed: int = 0


class Projector(nn.Module):
    """LLaVA's projector behind a standardisation of its inputs, which `folded` takes into the first matrix."""

    def __init__(self, features: Tensor, words: Tensor, seed: int) -> None:
        """Start with outputs of the size of word embeddings.

        Args:
            features: (N, P, C) whose mean and deviation per channel are taken, from the first 256 images.
            words: (V, D) the language model's embeddings.
            seed: of the weights.
        """
        super().__init__()
        some = features[:256].float()
        self.mean, self.scale = some.mean(dim=(0, 1)), some.std(dim=(0, 1))
        width = words.shape[1]
        generator = torch.Generator().manual_seed(seed)
        self.linear_1, self.linear_2 = nn.Linear(len(self.mean), width), nn.Linear(width, width)
        # GELU of a standard normal has a mean square of 0.425
        gains = (1 / math.sqrt(len(self.mean)), words.float().std().item() / math.sqrt(0.425 * width))
        for linear, gain in zip((self.linear_1, self.linear_2), gains, strict=True):
            nn.init.normal_(linear.weight, std=gain, generator=generator)
            nn.init.zeros_(linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Project (B, K, C) to (B, K, D)."""
        return self.linear_2(gelu(self.linear_1((features.float() - self.mean) / self.scale)))

    def folded(self) -> dict[str, Tensor]:
        """Return the state dict of the same function as a plain LLaVA projector."""
        weight = self.linear_1.weight / self.scale  # W (x - m) / s + b = (W / s) x + (b - (W / s) m)
        state = {
            "linear_1.weight": weight,
            "linear_1.bias": self.linear_1.bias - weight @ self.mean,
            "linear_2.weight": self.linear_2.weight,
            "linear_2.bias": self.linear_2.bias,
        }
        return {name: tensor.detach().clone() for name, tensor in state.items()}


def fit(reader: Reader, examples: Examples, settings: FitSettings, tell: Callable[[str], None] = print) -> Projector:
    """Return a projector that leads the language model to the right answers; `tell` hears of each step."""
    projector = Projector(examples.features, reader.words, settings.seed)
    generator = torch.Generator().manual_seed(settings.seed + 1)
    matrices = [parameter for parameter in projector.parameters() if parameter.ndim > 1]
    biases = [parameter for parameter in projector.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": biases, "weight_decay": 0.0}]
    solver = torch.optim.AdamW(groups, lr=settings.learning_rate)
    warmup = max(1, settings.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        solver,
        lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / settings.steps)),
    )
    order = torch.empty(0, dtype=torch.long)
    for step in range(settings.steps):
        while len(order) < settings.images:
            order = torch.cat([order, torch.randperm(len(examples), generator=generator)])
        chosen, order = examples.at(order[: settings.images]), order[settings.images :]
        low, high = settings.keep
        share = low + (high - low) * torch.rand((), generator=generator).item()
        share = 1.0 if step % settings.full == 0 else share
        places = draw(len(chosen), reader.patches, share, generator)
        logits = reader.logits(projector(gather(chosen.features, places)), places, chosen.answers)
        losses = {kind: cross_entropy(logits[kind].flatten(0, 1), chosen.answers[kind].flatten()) for kind in logits}
        solver.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
        solver.step()
        schedule.step()
        tell(f"step {step}: kept {share:.2f}, " + ", ".join(f"{kind} {loss:.3f}" for kind, loss in losses.items()))
    return projector


@torch.no_grad()
def score(reader: Reader, projector: nn.Module, examples: Examples, share: float) -> dict[str, float]:
    """Return per kind the share of questions whose greedy answer is the right one, with a share of the visual tokens.

    Greedy decoding gives the right answer exactly where each of its tokens is the likeliest one after those before it.
    """
    generator, right = torch.Generator().manual_seed(0), dict.fromkeys(examples.answers, 0)
    for start in range(0, len(examples), BATCH):
        chosen = examples.at(torch.arange(start, min(start + BATCH, len(examples))))
        places = draw(len(chosen), reader.patches, share, generator)
        logits = reader.logits(projector(gather(chosen.features, places)), places, chosen.answers)
        for kind in logits:
            right[kind] += int((logits[kind].argmax(dim=-1) == chosen.answers[kind]).all(dim=1).sum())
    return {kind: round(count / len(examples), 4) for kind, count in right.items()}
