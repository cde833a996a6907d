"""The figure of several models side by side: their metrics over relative depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saintprune.analysis.curves import Curves
from saintprune.analysis.figures.drawing import COLOURS, head_and_legend, panels, styled, words
from saintprune.analysis.verdict import Verdict
from saintprune.errors import SaintpruneError
from saintprune.files import write_figure

# cosines and an entropy as a share of its maximum: on one scale whatever the model's width
SHARED = ("neighbour_cosine_centred", "state_neighbour_cosine_centred", "self_similarity_centred", "attention_entropy")


def depth_figure(
    models: Mapping[str, Curves],
    path: Path,
    verdicts: Mapping[str, Verdict] | None = None,
    *,
    metrics: Sequence[str] | None = None,
    title: str = "",
) -> Path:
    """Draw the mean curves of several models over relative depth, one panel per metric.

    Curves whose `meta` has the same model share a colour; those of random weights are dashed or dash-dotted.

    Args:
        models: by the name that the legend gives them.
        path: of the PNG; the SVG stands beside it.
        verdicts: by the same names; boundaries are drawn for those that found three stages.
        metrics: None is `SHARED`. Each is drawn for the models that have it.
        title: of the figure.
    """
    colours: dict[str, str] = {}
    for label, curves in models.items():
        colours.setdefault(curves.meta.get("model", label), COLOURS[len(colours) % len(COLOURS)])
    chosen = [name for name in metrics or SHARED if any(name in curves.values for curves in models.values())]
    if not chosen:
        raise SaintpruneError(f"none of the models has {', '.join(metrics or SHARED)}: name other metrics")
    with styled():
        figure, axes = panels(len(chosen), 2, width=4.2, height=2.6)
        for axis, name in zip(axes, chosen, strict=True):
            for label, curves in models.items():
                if name not in curves.values:
                    continue
                place = (np.arange(curves.layers) + 0.5) / curves.layers
                line = {**_kind(curves), "color": colours[curves.meta.get("model", label)], "label": label}
                axis.plot(place, curves.values[name].nanmean(0).numpy(), **line)
                verdict = (verdicts or {}).get(label)
                for boundary in (verdict.boundaries or ()) if verdict and verdict.three_stages else ():
                    axis.axvline(boundary / curves.layers, color=line["color"], lw=1)
            axis.set(title=words(name), xlim=(0, 1))
        for axis in axes[-min(2, len(axes)) :]:
            axis.set_xlabel("relative depth")
        entries = {line.get_label(): line for axis in axes for line in axis.get_lines() if line.get_label() in models}
        head_and_legend(figure, title or "Tokens over relative depth", list(entries.values()))
        return write_figure(figure, path)


def _kind(curves: Curves) -> dict[str, Any]:
    """Return how the curve of one of several models is drawn: its own weights, initialised anew or shuffled."""
    weights = curves.meta.get("weights", "own")
    if weights == "own":
        return {"marker": "o", "ms": 3}
    return {"ls": "-." if weights.startswith("shuffled") else "--", "lw": 1.2}
