"""What a run of task=analyze does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AnalysisSettings:
    """The values of the config's `analysis`.

    Attributes:
        samples: images (prompts, passages) that are traced; whole batches of them.
        split: "train" or "test". Stages decide what plans prune, so they are looked for on training images.
        twins: networks with random weights, of each kind: initialised anew, and with each tensor's weights shuffled.
        draws: of each bootstrap and of each null.
        rank_every: the effective rank of the states, by far the dearest metric, is of one image in so many.
        sensitivity: images on which a share is dropped at one block at a time; 0 leaves it out. None: 64 for a network
            that looks at images, none for a language model, which takes minutes.
        share: of the patches that is dropped there.
        site: where: "vision" or "language".
        pictures: images that are shown with their similarities and with what the plan leaves of them.
        save: whether the stages are written for plans to use (`layers: aligner`); None: if there are none yet.
    """

    samples: int = 256
    split: str = "train"
    twins: int = 2
    draws: int = 199
    rank_every: int = 8
    sensitivity: int | None = None
    share: float = 0.3
    site: str = "vision"
    pictures: int = 3
    save: bool | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        for name, least in (("samples", 1), ("twins", 0), ("draws", 19), ("rank_every", 1), ("pictures", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least {least}")
        if self.sensitivity is not None and self.sensitivity < 0:
            raise ValueError(f"sensitivity is {self.sensitivity}, but must not be negative")
        if self.split not in ("train", "test"):
            raise ValueError(f"split is {self.split!r}, but must be 'train' or 'test'")
        if self.site not in ("vision", "language"):
            raise ValueError(f"site is {self.site!r}, but must be 'vision' or 'language'")
        if not 0 < self.share < 1:
            raise ValueError(f"share is {self.share}, but must lie between 0 and 1")
