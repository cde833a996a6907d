"""The figure of drop sensitivity: what it costs to prune at one layer alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saintprune.analysis.figures.drawing import (
    COLOURS,
    MARKERS,
    head_and_legend,
    layer_axis,
    panels,
    shade,
    stage_legend,
    styled,
)
from saintprune.analysis.verdict import Verdict
from saintprune.files import write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from saintprune.analysis.sensitivity import Sensitivity


def sensitivity_figure(
    rows: Sequence[Sensitivity],
    path: Path,
    verdict: Verdict | None = None,
    *,
    layers: int | None = None,
    title: str = "",
) -> Path:
    """Draw what it costs to prune at one layer alone: accuracy, agreement and change of the output, by method.

    Args:
        rows: of `saintprune.analysis.sensitivity.drop_sensitivity`.
        path: of the PNG; the SVG stands beside it.
        verdict: whose stages are drawn.
        layers: of the network; None is up to the last pruned one.
        title: of the figure.
    """
    measures = [(label, values) for label, values in _MEASURES if any(values(row)[0] is not None for row in rows)]
    methods = list(dict.fromkeys(row.method for row in rows))
    depth = layers or 1 + max(row.layer for row in rows)
    with styled():
        figure, axes = panels(len(measures), 3, width=3.8 if len(measures) > 1 else 5.2, height=3.2)
        for axis, (label, values) in zip(axes, measures, strict=True):
            shade(axis, verdict)
            for method, colour, marker in zip(methods, COLOURS, MARKERS, strict=False):
                points = [(row.layer, *values(row)) for row in rows if row.method == method]
                _line(axis, sorted(point for point in points if point[1] is not None), colour, marker)
            layer_axis(axis, depth)
            axis.set_title(label)
            axis.set_xlabel("the one pruned block")
        from matplotlib.lines import Line2D

        entries = [
            Line2D([], [], color=colour, marker=marker, ms=4, label=method)
            for method, colour, marker in zip(methods, COLOURS, MARKERS, strict=False)
        ]
        dropped = f"{100 * rows[0].share:.0f} % of the patches dropped at one block, {rows[0].samples} images"
        head_and_legend(figure, title or dropped, [*entries, *stage_legend(verdict)])
        return write_figure(figure, path)


def _line(axis: Axes, points: Sequence[tuple[Any, ...]], colour: str, marker: str) -> None:
    """Draw (layer, value, low, high) as a line with a band."""
    if points:
        layer, value, low, high = (np.array(column, dtype=float) for column in zip(*points, strict=True))
        axis.fill_between(layer, low, high, color=colour, alpha=0.15, lw=0)
        axis.plot(layer, value, color=colour, marker=marker, ms=3.5)


def _scaled(value: float | None, interval: tuple[float, float] | None, scale: float, offset: float) -> tuple[Any, ...]:
    if value is None or interval is None:
        return None, None, None
    low, high = sorted((offset + scale * interval[0], offset + scale * interval[1]))
    return offset + scale * value, low, high


_MEASURES = (
    ("change of accuracy, points", lambda row: _scaled(row.accuracy_change, row.accuracy_change_ci95, 100, 0)),
    ("answers unchanged, %", lambda row: _scaled(row.agreement, row.agreement_ci95, 100, 0)),
    ("change of the features, 1 − cosine", lambda row: _scaled(row.feature_cosine, row.feature_cosine_ci95, -1, 1)),
)
