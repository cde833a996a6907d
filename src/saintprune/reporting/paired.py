"""How far one method of a comparison is above each other one, sample by sample, at the same target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saintprune.errors import SaintpruneError
from saintprune.metrics.samples import Difference, Samples, paired_difference
from saintprune.reporting.cells import points
from saintprune.reporting.comparison_table import by_cell, target_order, words
from saintprune.reporting.results import Row, read_rows
from saintprune.reporting.samples_file import beside, read_samples

ALL = "all"


@dataclass(frozen=True)
class Pair:
    """One method above another at one target.

    Attributes:
        other: the other method.
        target: what both were calibrated to, or the share of tokens that goes; ALL of them together.
        agreement: how many more of the unpruned network's answers are kept.
        accuracy: how many more answers are right; None without labels.
    """

    other: str
    target: str
    agreement: Difference
    accuracy: Difference | None


def pairs_of(folder: Path, method: str) -> list[Pair]:
    """Return a method beside each other one of a folder of records, wherever both reached a target.

    Returns:
        A pair per method and target, and where the targets are several shares of tokens that go, one of ALL of them
        that both were run at, answers averaged for each sample.

    Raises:
        SaintpruneError: the folder holds no answers of that method, or answers to other samples than its own.
    """
    _, found = by_cell([row for row in read_rows(folder) if beside(folder / row.record).exists()])
    if method not in {name for name, _ in found}:
        known = ", ".join(sorted({name for name, _ in found})) or "none"
        raise SaintpruneError(f"{folder} holds no answers of {method!r} at a target; of these it does: {known}")
    sides: dict[tuple[str, str], tuple[list[Samples], list[Samples]]] = {}
    several = len({target for _, target in found}) > 1
    for (other, target), rows in found.items():
        if other == method or (method, target) not in found:
            continue
        answers = _answers(folder, found[method, target]), _answers(folder, rows)
        for key in (target, ALL) if target.startswith("drop:") and several else (target,):
            for side, added in zip(sides.setdefault((other, key), ([], [])), answers, strict=True):
                side += added
    pairs = []
    for (other, target), (ours, theirs) in sides.items():
        above = paired_difference(ours, theirs)
        pairs.append(Pair(other, target, above["agreement"], above.get("accuracy")))
    return pairs


def paired_table(folder: Path, method: str) -> str:
    """Return the Markdown table of `pairs_of`, in points with 95 % intervals: the closest rivals first."""
    pairs = pairs_of(folder, method)
    compared = {pair.target for pair in pairs}
    targets = [*sorted(compared - {ALL}, key=target_order), *compared & {ALL}]
    found = {(pair.other, pair.target): pair for pair in pairs}
    closest = {other: min(one.agreement.value for one in pairs if one.other == other) for other, _ in found}
    heads = ("same answers", "accuracy")
    header = [f"{method} above", *(f"{words(target)}: {head}" for target in targets for head in heads)]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for other in sorted(closest, key=lambda other: (closest[other], other)):
        cells = [_cell(found.get((other, target)), head) for target in targets for head in ("agreement", "accuracy")]
        lines.append(f"| {other} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _answers(folder: Path, rows: Sequence[Row]) -> list[Samples]:
    return [read_samples(beside(folder / row.record)) for row in rows]


def _cell(pair: Pair | None, figure: str) -> str:
    """Return a difference in points, in bold where chance does not explain it."""
    difference: Difference | None = getattr(pair, figure, None)
    if difference is None:
        return "-"
    text = points(difference.value, (difference.low, difference.high))
    return f"**{text}**" if difference.low > 0 or difference.high < 0 else text
