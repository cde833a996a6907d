"""The figure of a comparison: accuracy and agreement against the speed-up and the FLOPs that were realised."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from saintprune.analysis.figures.drawing import COLOURS, MARKERS, head_and_legend, panels, styled
from saintprune.files import write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Cell(Protocol):
    """What is drawn of a cell; shares are 0..1."""

    model: str
    dataset: str
    method: str
    target: str | None
    unpruned_accuracy: float | None
    accuracy: float | None
    agreement: float | None
    gflops_ratio: float | None
    speedup: float | None
    speedup_low: float | None
    speedup_high: float | None


ACROSS = {"speedup": "speed-up over unpruned", "gflops_ratio": "share of the unpruned FLOPs"}
UP = {"accuracy": "accuracy, %", "agreement": "same answer as unpruned, %"}
LINES = ("-", "--", ":")


def pareto_figure(cells: Sequence[Any], path: Path) -> Path | None:
    """Draw a line per method through its targets, with a band over seeds; write PNG and SVG.

    Args:
        cells: see `Cell`; figures that were not measured are left out.
        path: of the PNG; the SVG stands beside it.

    Returns:
        The path, or None where there is nothing to draw.
    """
    known = [(up, across) for up in UP for across in ACROSS if any(_has(cell, up, across) for cell in cells)]
    if not known:
        return None
    from matplotlib.lines import Line2D

    methods = sorted({cell.method for cell in cells if any(_has(cell, *pair) for pair in known)})
    with styled():
        figure, axes = panels(len(known), 2, width=5.0, height=3.6)
        for axis, (up, across) in zip(axes, known, strict=True):
            for number, method in enumerate(methods):
                _method(axis, [cell for cell in cells if cell.method == method and _has(cell, up, across)], up, across,
                        look(number))  # fmt: skip
            _unpruned(axis, cells, up)
            axis.set(xlabel=ACROSS[across], ylabel=UP[up])
            if across == "gflops_ratio":
                axis.invert_xaxis()  # to the right is cheaper, as in the panels of speed-ups
        entries = [Line2D([], [], **look(number), label=method) for number, method in enumerate(methods)]
        entries.append(Line2D([], [], color="black", marker="*", ms=10, ls="", label="unpruned"))
        shared = sorted({f"{cell.model} on {cell.dataset}" for cell in cells})
        head_and_legend(figure, f"{', '.join(shared)}: what pruning costs and saves", entries)
        return write_figure(figure, path)


def look(number: int) -> dict[str, Any]:
    """Return how the method of a number is drawn; the first 36 all differ in colour or marker."""
    turn = number // len(COLOURS)
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[(number + turn) % len(MARKERS)],
        "ls": LINES[turn % len(LINES)],
        "ms": 4.5,
    }


def _has(cell: Cell, up: str, across: str) -> bool:
    return getattr(cell, up) is not None and getattr(cell, across) is not None


def _method(axis: Axes, cells: Sequence[Cell], up: str, across: str, drawn: dict[str, Any]) -> None:
    """Draw one method: the mean over seeds of each target as a line, from the least to the most as a band."""
    groups: dict[str | None, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.target, []).append(cell)
    points = [(_centre(group, across), [100 * getattr(cell, up) for cell in group], group) for group in groups.values()]
    points.sort(key=lambda point: point[0])
    x = [point[0] for point in points]
    middle, low, high = ([pick(values) for _, values, _ in points] for pick in (lambda v: sum(v) / len(v), min, max))
    axis.plot(x, middle, **drawn)
    colour = drawn["color"]
    if any(len(values) > 1 for _, values, _ in points):
        axis.fill_between(x, low, high, color=colour, alpha=0.25, lw=0)
        axis.vlines(x, low, high, color=colour, alpha=0.5, lw=1)
    if across == "speedup":
        for at, value, (_, _, group) in zip(x, middle, points, strict=True):
            if all(cell.speedup_low is not None and cell.speedup_high is not None for cell in group):
                low_end, high_end = (_centre(group, end) for end in ("speedup_low", "speedup_high"))
                axis.hlines(value, min(low_end, at), max(high_end, at), color=colour, alpha=0.35, lw=1)


def _centre(group: Sequence[Cell], name: str) -> float:
    values = [value for cell in group if (value := getattr(cell, name)) is not None]
    return sum(values) / len(values)


def _unpruned(axis: Axes, cells: Sequence[Cell], up: str) -> None:
    """Draw the untouched network: it costs 1 and agrees with itself."""
    for value in {cell.unpruned_accuracy if up == "accuracy" else 1.0 for cell in cells} - {None}:
        assert value is not None
        axis.axhline(100 * value, color="0.5", lw=0.8, ls=":", zorder=0)
        axis.plot([1.0], [100 * value], color="black", marker="*", ms=10, ls="", zorder=5)
