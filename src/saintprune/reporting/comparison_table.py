"""The Markdown table of a comparison: a row per method, a group of columns per target."""

from __future__ import annotations

import re
from collections.abc import Sequence

from saintprune.reporting.results import Row

FIGURES = ("accuracy", "agreement", "speedup")
BEYOND = 0.03  # share of FLOPs below the target from which a cell is marked
Cells = dict[tuple[str, str], list[Row]]
_SHARE_THAT_GOES = re.compile(r"drop(\d\d)/(\w+)")  # files in conf/pruning/drop50 and beside it


def comparison_table(rows: Sequence[Row]) -> str:
    """Return the table of rows with targets: methods by their mean agreement, the best of a column in bold.

    A method of several seeds shows the mean and, in parentheses, the least and the most. A cell that prunes much more
    than its target asks for is marked and never the best: it is no match of the others.
    """
    targets, found = by_cell(rows)
    methods = sorted({method for method, _ in found}, key=lambda method: (-_rank(found, method, targets), method))
    best = {
        (target, figure): max(_fair(found, target, figure), default=None) for target in targets for figure in FIGURES
    }
    header = ["method"] + [f"{words(target)}: {name}" for target in targets for name in _HEADS]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    unpruned = next((one.unpruned_accuracy for one in rows if one.unpruned_accuracy is not None), None)
    lines.append("| unpruned | " + " | ".join([_shown("accuracy", unpruned), "", "1.00x"] * len(targets)) + " |")
    for method in methods:
        cells = [over_seeds(found.get((method, target), []), figure, best[target, figure]) for target in targets
                 for figure in FIGURES]  # fmt: skip
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + _notes(found)


def speed_table(rows: Sequence[Row]) -> str:
    """Return the table of what is gained in time, most first, for networks whose answers mean nothing."""
    header = "| method | FLOPs left | speed-up (95 %) | selecting, share of the pass |"
    lines = [header, "|---" * 4 + "|", "| unpruned | 1.00 | 1.00x | |"]
    for one in sorted(rows, key=lambda one: -(one.speedup or 0.0)):
        if one.speedup is None or one.gflops_ratio is None or one.selector_share is None:
            lines.append(f"| {one.method} | out of reach | | |")
            continue
        faster = f"{one.speedup:.2f}x ({one.speedup_low:.2f}–{one.speedup_high:.2f})"
        lines.append(f"| {one.method} | {one.gflops_ratio:.2f} | {faster} | {100 * one.selector_share:.1f} % |")
    return "\n".join(lines)


def selecting_table(rows: Sequence[Row]) -> str:
    """Return the table of what selecting takes, least first: milliseconds an image and the share of the pruned pass."""
    targets, found = by_cell([one for one in rows if one.selector_ms is not None])
    methods = {method: [] for method, _ in found}
    for (method, _), cell in found.items():
        methods[method].append(_mean(cell, "selector_ms"))
    header = ["method", *(f"{words(target)}: selecting" for target in targets)]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for method in sorted(methods, key=lambda method: sum(methods[method]) / len(methods[method])):
        cells = [_selecting(found.get((method, target), [])) for target in targets]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _selecting(cell: list[Row]) -> str:
    milliseconds, share = (_mean(cell, figure) for figure in ("selector_ms", "selector_share"))
    return "-" if milliseconds is None or share is None else f"{milliseconds:.1f} ms, {100 * share:.1f} %"


def by_cell(rows: Sequence[Row]) -> tuple[list[str], Cells]:
    """Return the targets in their order, and the rows of each method at each target.

    Prunings by which a given share of the tokens goes, "drop50/NAME", are method NAME at the target "drop:0.5".
    """
    found: Cells = {}
    for one in rows:
        if one.target:
            found.setdefault((one.method, one.target), []).append(one)
        elif named := _SHARE_THAT_GOES.fullmatch(one.method):
            found.setdefault((named[2], f"drop:{int(named[1]) / 100:g}"), []).append(one)
    return sorted({target for _, target in found}, key=target_order), found


def _fair(found: Cells, target: str, figure: str) -> list[float]:
    """Return a figure of those cells of a target that do not prune much more than it asks for."""
    cells = [cell for (_, other), cell in found.items() if other == target and not _beyond(cell)]
    return [value for cell in cells if (value := _mean(cell, figure)) is not None]


def over_seeds(cell: list[Row], figure: str, best: float | None = None) -> str:
    """Return one cell: the mean, the range over seeds, bold where it is the best."""
    values = [value for one in cell if (value := getattr(one, figure)) is not None]
    if not values:
        return "out of reach" if cell and all(one.reason for one in cell) else "-"
    mean = sum(values) / len(values)
    text = _shown(figure, mean)
    if len(values) > 1:
        text += f" ({_shown(figure, min(values), bare=True)}–{_shown(figure, max(values), bare=True)})"
    if _beyond(cell):
        return text + " †"
    return f"**{text}**" if best is not None and text.split(" (")[0] == _shown(figure, best) else text


def _beyond(cell: list[Row]) -> bool:
    kind, _, value = (cell[0].target or "").partition(":")
    ratio = _mean(cell, "gflops_ratio")
    return kind == "flops" and ratio is not None and ratio < float(value) - BEYOND


def _mean(cell: list[Row], figure: str) -> float | None:
    values = [value for one in cell if (value := getattr(one, figure)) is not None]
    return sum(values) / len(values) if values else None


def _rank(found: Cells, method: str, targets: Sequence[str]) -> float:
    """Return a method's mean agreement over the targets that it was run at; what is out of reach counts as nothing."""
    cells = [found[method, target] for target in targets if (method, target) in found]
    return sum(_mean(cell, "agreement") or 0.0 for cell in cells) / len(cells)


def _shown(figure: str, value: float | None, bare: bool = False) -> str:
    if value is None:
        return "-"
    if figure == "speedup":
        return f"{value:.2f}" if bare else f"{value:.2f}x"
    return f"{100 * value:.1f}" if bare else f"{100 * value:.1f} %"


def target_order(target: str) -> tuple[str, float]:
    """Return what targets are sorted by: kind, then least pruning first."""
    kind, _, value = target.partition(":")
    return kind, float(value) if kind in ("speedup", "drop") else -float(value)


def words(target: str) -> str:
    """Return how a target is called in the head of a table."""
    kind, _, value = target.partition(":")
    if not value:
        return target
    if kind == "drop":
        return f"−{100 * float(value):.0f} %"
    return {"flops": "FLOPs", "speedup": "speed-up"}.get(kind, kind) + f" {value}"


def _notes(found: Cells) -> str:
    """Return what the marks mean, where there are any."""
    seeds = max(len(cell) for cell in found.values())
    notes = [f"Mean (least–most) over up to {seeds} seeds where a method draws."] if seeds > 1 else []
    if beyond := [cell for cell in found.values() if _beyond(cell)]:
        whys = {"it defers fewer of these images" if cell[0].deferred else "its steps are coarse" for cell in beyond}
        notes.append(f"† leaves at least {BEYOND:g} less of the FLOPs than asked for: {', or '.join(sorted(whys))}.")
    if any(one.reason for cell in found.values() for one in cell):
        notes.append("Out of reach: the strongest pruning of the configured layers falls short of the target.")
    return "".join(f"\n\n{note}" for note in notes)


_HEADS = ("accuracy", "agreement", "speed-up")
