"""A pruned model for lmms-eval: `lmms-eval --model saintprune --model_args model=…,pruning=… --tasks …`.

Checked with lmms-eval 0.7.3 (`pip install 'saintprune[lmms]'`, in an environment of its own).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from saintprune.data.images import as_rgb
from saintprune.errors import SaintpruneError

try:
    from lmms_eval.api.instance import (  # pyright: ignore[reportMissingImports]
        GenerationResult,
        Instance,
        TokenCounts,
    )
    from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]
    from lmms_eval.models.model_utils.gen_metrics import log_metrics  # pyright: ignore[reportMissingImports]
    from tqdm import tqdm
except ImportError as error:
    raise SaintpruneError(
        f"lmms-eval cannot be imported ({error}): install it in an environment of its own with"
        " pip install 'saintprune[lmms]'"
    ) from error

from saintprune.integrations.answering import Answer
from saintprune.integrations.composed import compose_config, load, split_overrides
from saintprune.integrations.decoding import Decoding

Batch = tuple[Sequence[int], list[str], Sequence[list[Image.Image]]]  # places of requests, questions, images
IMAGE_FILES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tiff", ".webp"}


class Saintprune(lmms):
    """Runs the tasks of lmms-eval that ask about images, or only in text.

    Args:
        model: name of a YAML file in `conf/model/`.
        pruning: name of a YAML file in `conf/pruning/`.
        overrides: further Hydra overrides with `;` between them: ``overrides=hardware=cpu;model.adapter.cache=trim``.
        batch_size: requests per forward pass; lmms-eval passes its `--batch_size` as a string.
        device: lmms-eval's `--device`: cpu, cuda, cuda:N or mps; chooses `hardware=` unless `overrides` does.
        max_batch_size: has no effect, as there are no automatic batch sizes.

    Raises:
        SaintpruneError: a name or a value that does not fit.
    """

    is_simple = True  # lmms-eval formats the text and hands images beside it; it scores likelihoods in no other way

    def __init__(
        self,
        model: str,
        pruning: str = "none",
        overrides: str = "",
        batch_size: int | str = 1,
        device: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise SaintpruneError(f"batch_size is {batch_size!r}, but must be a whole number of at least 1")
        self.batch_size = int(batch_size)
        chosen = split_overrides(str(overrides))
        if device is not None and not any(part.startswith("hardware=") for part in chosen):
            kind, _, number = device.partition(":")
            chosen.append(f"hardware={kind}")
            if number:
                torch.cuda.set_device(int(number))
        self.vlm = load(compose_config(str(model), str(pruning), chosen))

    @property
    def device(self) -> torch.device:
        """Where the model is; lmms-eval gathers the counts of several processes there."""
        return self.vlm.device

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer requests (context, generation_kwargs, doc_to_visual, doc_id, task, split)."""
        alike: dict[Decoding, list[int]] = defaultdict(list)
        for place, request in enumerate(requests):
            alike[Decoding.parse(request.args[1])].append(place)
        answers: dict[int, Answer] = {}
        began, first = time.perf_counter(), len(self.vlm.visual_tokens)
        with tqdm(total=len(requests), disable=self.rank != 0, desc="saintprune answers") as bar:
            for decoding, group in alike.items():
                for places, questions, images in self._batches(requests, group):
                    answers.update(zip(places, self.vlm.generate(questions, images, decoding), strict=True))
                    bar.update(len(places))
        self._log(answers.values(), time.perf_counter() - began, first)
        return [
            GenerationResult(answer.text, TokenCounts(input_tokens=answer.prompt_tokens, output_tokens=answer.tokens))
            for answer in (answers[place] for place in range(len(requests)))
        ]

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """Score requests (context, continuation, doc_to_visual, doc_id, task, split).

        Returns:
            Per request (negative sum of log-probabilities, whether greedy decoding would give the continuation), in
            the shape in which lmms-eval 0.7.3 can use it, whatever its docstring says: it takes the least for the
            answer (`np.argmin` in `api/task.py`), as its own models return their loss, and it makes a string of every
            tuple that comes without a wrapper (`unwrap_generation_output` in `api/instance.py`).
        """
        scores: dict[int, tuple[float, bool]] = {}
        with tqdm(total=len(requests), disable=self.rank != 0, desc="saintprune scores") as bar:
            for places, questions, images in self._batches(requests, range(len(requests))):
                wanted = [self._continuation(requests[place]) for place in places]
                scores.update(zip(places, self.vlm.score(questions, images, wanted), strict=True))
                bar.update(len(places))
        found = (scores[place] for place in range(len(requests)))
        return [GenerationResult(text=(-likelihood, likeliest)) for likelihood, likeliest in found]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refuse tasks of several rounds."""
        raise SaintpruneError("tasks of several rounds are not supported with --model saintprune: choose another task")

    def _batches(self, requests: list[Instance], places: Iterable[int]) -> Iterator[Batch]:
        """Yield what goes through the model together: the longest first, all with images or all without."""
        order = sorted(places, key=lambda place: -len(requests[place].args[0]))
        for start in range(0, len(order), self.batch_size):
            read = [(place, self._images(requests[place])) for place in order[start : start + self.batch_size]]
            for seeing in (True, False):
                part = [(place, images) for place, images in read if bool(images) is seeing]
                if part:
                    batch, images = zip(*part, strict=True)
                    yield batch, [requests[place].args[0] for place in batch], images

    def _document(self, request: Instance) -> Any:
        doc_id, task, split = request.args[3:6]
        return self.task_dict[task][split][doc_id]

    def _continuation(self, request: Instance) -> str:
        target = request.args[1]
        return target if isinstance(target, str) else str(target(self._document(request)))

    def _images(self, request: Instance) -> list[Image.Image]:
        """Return the images of a request."""
        visuals = request.args[2](self._document(request)) or []
        return [as_image(visual, request.args[4]) for visual in visuals if visual is not None]

    def _log(self, answers: Iterable[Answer], seconds: float, first: int) -> None:
        """Tell lmms-eval the speed, and how many image tokens were left; both go into its results file."""
        tokens, seen = sum(answer.tokens for answer in answers), self.vlm.visual_tokens[first:]
        samples = sum(count for count, _ in seen)
        left = {"visual_tokens": sum(count * mean for count, mean in seen) / samples} if samples else None
        log_metrics(seconds, tokens, tokens / seconds if seconds else 0.0, left)


def as_image(visual: Any, task: str) -> Image.Image:
    """Return what a task gives to look at as an RGB image.

    Raises:
        SaintpruneError: it is a video or a sound, or has grey values that 8 bits cannot hold.
    """
    if isinstance(visual, str) and Path(visual).suffix.lower() in IMAGE_FILES:
        visual = Image.open(visual)
    if not isinstance(visual, Image.Image):
        raise SaintpruneError(
            f"task {task} gives {type(visual).__name__} {str(visual)[:80]!r}, but --model saintprune looks at images"
            " only: choose a task of images"
        )
    try:
        return as_rgb(visual)
    except ValueError as error:
        raise SaintpruneError(f"task {task}: {error}") from error
