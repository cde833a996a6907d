"""The whole analysis of a network: its curves, those of its twins, and the verdict about each of its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saintprune.analysis.curves import Curves
from saintprune.analysis.settings import AnalysisSettings
from saintprune.analysis.stages import CENTRED, RAW, find_stages
from saintprune.analysis.trace import trace
from saintprune.analysis.verdict import Verdict

Twin = Callable[[], Any]  # makes an adapter of a network with random weights


@dataclass(frozen=True, eq=False)
class Part:
    """One part of a network.

    Attributes:
        curves: of the network.
        twins: name -> the same of a network with random weights.
        verdict: about three stages, by metrics about the mean.
        raw: the same by raw cosines, in which what all tokens have in common counts too.
    """

    curves: Curves
    twins: Mapping[str, Curves]
    verdict: Verdict
    raw: Verdict

    @property
    def name(self) -> str:
        """The part's name, as in `Curves`."""
        return self.curves.part


def study(
    adapter: Any,
    batches: Callable[[], Iterable[Any]],
    twins: Mapping[str, Twin],
    settings: AnalysisSettings,
    *,
    meta: Mapping[str, Any],
    seed: int = 0,
    advance: Callable[[float], None] = lambda share: None,
) -> list[Part]:
    """Trace a network and its twins on the same images, and look for three stages in each part.

    Args:
        adapter: around the network.
        batches: makes the batches anew for each network; `settings.samples` of them count.
        twins: by name; each is made when its turn comes, and let go.
        settings: of the analysis.
        meta: is written into the curves.
        seed: of the bootstrap and the nulls.
        advance: is told which share of the passes is done.

    Raises:
        SaintpruneError: there are no batches, or they do not fit the network.
    """
    passes, done = 1 + len(twins), 0

    def traced(subject: Any, name: str) -> dict[str, Curves]:
        nonlocal done
        found = trace(
            subject,
            first(batches(), settings.samples),
            rank_every=settings.rank_every,
            meta={**meta, "weights": name},
            advance=lambda images: advance((done + min(1.0, images / settings.samples)) / passes),
        )
        done += 1
        return {curves.part: curves for curves in found}

    own = traced(adapter, "own")
    others = {name: traced(make(), name) for name, make in twins.items()}
    return [
        judged(curves, {twin: found[name] for twin, found in others.items() if name in found}, settings.draws, seed)
        for name, curves in own.items()
    ]


def judged(curves: Curves, twins: Mapping[str, Curves], draws: int, seed: int = 0) -> Part:
    """Return a part with the verdicts about it.

    Args:
        curves: of the network.
        twins: name -> the same of a network with random weights.
        draws: of each bootstrap and each null.
        seed: of the draws.
    """
    centred, raw = (
        find_stages(curves, list(twins.values()), metrics=metrics, draws=draws, seed=seed) for metrics in (CENTRED, RAW)
    )
    return Part(curves, twins, centred, raw)


def first(batches: Iterable[Any], samples: int) -> Iterable[Any]:
    """Yield the first batches until they hold so many samples; the last one is whole."""
    done = 0
    for batch in batches:
        yield batch
        done += size_of(batch)
        if done >= samples:
            return


def size_of(batch: Any) -> int:
    """Return the number of images or prompts of a batch."""
    if isinstance(batch, Sequence):
        return len(batch[0])
    return len(batch["input_ids"]) if isinstance(batch, Mapping) else len(batch)
