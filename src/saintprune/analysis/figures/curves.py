"""Figures of curves: the metrics from layer to layer, with the stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saintprune.analysis.curves import Curves
from saintprune.analysis.descriptions import standardise
from saintprune.analysis.figures.drawing import (
    BLUE,
    head_and_legend,
    layer_axis,
    panels,
    shade,
    stage_legend,
    styled,
    words,
)
from saintprune.analysis.verdict import Verdict
from saintprune.files import write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def curves_figure(
    curves: Curves,
    path: Path,
    verdict: Verdict | None = None,
    *,
    metrics: Sequence[str] | None = None,
    random: Mapping[str, Curves] | None = None,
    title: str = "",
) -> Path:
    """Draw a panel per metric: its mean over images, the range of 80 % of the images, and the stages.

    Args:
        curves: of one part of a model.
        path: of the PNG; the SVG stands beside it.
        verdict: whose stages are drawn; those that are not supported as dotted lines only.
        metrics: None is those of the verdict, without one all.
        random: name -> the same part of the architecture with random weights, drawn dashed, or dash-dotted where
            the weights were shuffled.
        title: of the figure.
    """
    chosen = [name for name in metrics or (verdict.metrics if verdict else ()) or curves.values]
    with styled():
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        figure, axes = panels(len(chosen), 3, width=3.4 if len(chosen) > 1 else 5)
        for axis, name in zip(axes, chosen, strict=True):
            shade(axis, verdict)
            _band(axis, curves.values[name].numpy())
            for twin, found in (random or {}).items():
                if name in found.values:
                    axis.plot(found.values[name].nanmean(0).numpy(), **_line(twin))
            axis.set_title(words(name))
            layer_axis(axis, curves.layers)
        for axis in axes[-min(3, len(axes)) :]:
            axis.set_xlabel("block")
        entries: list[Any] = [
            Line2D([], [], color=BLUE, label="mean over images"),
            Patch(color=BLUE, alpha=0.22, lw=0, label="80 % of the images"),
        ]
        kinds = dict.fromkeys(twin.partition(" ")[0] for twin in random or {})
        entries += [Line2D([], [], **_line(kind), label=f"weights {kind}") for kind in kinds]
        entries += stage_legend(verdict)
        head_and_legend(figure, title or f"{curves.part}: tokens from block to block", entries)
        return write_figure(figure, path)


def _line(twin: str) -> dict[str, Any]:
    """Return how the curve of a network with random weights is drawn."""
    ls, color = ("-.", "0.55") if twin.startswith("shuffled") else ("--", "0.3")
    return {"color": color, "ls": ls, "lw": 1.1}


def _band(axis: Axes, values: np.ndarray) -> None:
    """Draw the mean over images of [images, L] and the range of the middle 80 %."""
    known = values[np.isfinite(values).any(1)]
    low, high = np.nanquantile(known, [0.1, 0.9], axis=0)
    place = np.arange(values.shape[1])
    axis.fill_between(place, low, high, color=BLUE, alpha=0.22, lw=0)
    axis.plot(place, np.nanmean(known, 0), color=BLUE, marker="o", ms=2.5)


def heatmap_figure(
    curves: Curves, path: Path, verdict: Verdict | None = None, *, metrics: Sequence[str] | None = None, title: str = ""
) -> Path:
    """Draw metrics as rows, each standardised over the layers; its smallest and largest mean stand beside it.

    Args:
        curves: of one part of a model.
        path: of the PNG; the SVG stands beside it.
        verdict: whose boundaries are drawn.
        metrics: None is all but the degrees, which say what the shares of pairs say.
        title: of the figure.
    """
    metrics = metrics or [name for name in curves.values if not name.startswith("degree@")]
    chosen = [name for name in metrics if bool(curves.values[name].nanmean(0).isfinite().all())]
    means = np.stack([curves.values[name].nanmean(0).numpy() for name in chosen])
    with styled():
        figure, (axis,) = panels(1, 1, width=max(6.5, 2.7 + 0.3 * curves.layers), height=1.2 + 0.24 * len(chosen))
        shown = axis.imshow(standardise(means), cmap="RdBu_r", vmin=-2.5, vmax=2.5, aspect="auto")
        axis.set_yticks(range(len(chosen)), [words(name) for name in chosen])
        layer_axis(axis, curves.layers)
        axis.grid(visible=False)
        axis.set_xlabel("block")
        right = axis.secondary_yaxis("right")
        right.set_yticks(range(len(chosen)), [f"{_short(row.min())} … {_short(row.max())}" for row in means])
        right.tick_params(length=0, labelsize=7.5)
        right.spines["right"].set_visible(False)
        for boundary in (verdict.boundaries or ()) if verdict else ():
            axis.axvline(boundary - 0.5, color="black", ls="-" if verdict and verdict.three_stages else ":", lw=1.4)
        bar = figure.colorbar(shown, ax=axis, shrink=0.8, aspect=30, pad=0.03, extend="both")
        bar.set_label("standard deviations from the metric's mean over blocks")
        figure.suptitle(title or f"{curves.part}: metrics by block", fontsize=11, x=0.01, ha="left")
        return write_figure(figure, path)


def distribution_figure(curves: Curves, path: Path, verdict: Verdict | None = None, *, title: str = "") -> Path:
    """Draw how the cosines of pairs are distributed at each layer, one panel per histogram."""
    with styled():
        figure, axes = panels(len(curves.histograms), 2, width=4.2, height=2.8)
        shown = None
        for axis, (name, counts) in zip(axes, curves.histograms.items(), strict=True):
            edges = curves.edges[name].numpy()
            share = counts.double() / counts.sum(1, keepdim=True).clamp_min(1)
            density = (share.numpy() / np.diff(edges)).T
            blocks = np.arange(curves.layers + 1) - 0.5
            shown = axis.pcolormesh(blocks, edges, np.sqrt(density), cmap="cividis", vmin=0, vmax=4, rasterized=True)
            mean = share.numpy() @ (edges[:-1] + edges[1:]) / 2
            axis.plot(mean, color="black", lw=2.6)
            axis.plot(mean, color="white", lw=1.3)
            for boundary in (verdict.boundaries or ()) if verdict and verdict.three_stages else ():
                axis.axvline(boundary - 0.5, color="white", lw=1)
            axis.set_title(words(name))
            layer_axis(axis, curves.layers)
            axis.grid(visible=False)
            axis.set(xlabel="block", ylabel="cosine of a pair")
        if shown is not None:
            bar = figure.colorbar(shown, ax=axes, shrink=0.8, aspect=30, extend="max")
            bar.set_ticks(range(5), labels=[str(root**2) for root in range(5)])
            bar.set_label("density of pairs (white: mean)")
        figure.suptitle(title or f"{curves.part}: pairs of tokens by block", fontsize=11, x=0.01, ha="left")
        return write_figure(figure, path)


def _short(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")
