"""What the figures share: style, colours that colour-blind readers can tell apart, stages in the background, files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from saintprune.analysis.verdict import Pair, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
YELLOW = "#F0E442"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
STAGES = (PURPLE, YELLOW, GREEN)
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "saintprune",
}
LEGEND_INCHES = 2.3  # width of an entry of a legend
HAIR = 0.06  # layers on each side of an interval, so that one of a single place can be seen


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of these figures for as long as the `with` block lasts."""
    from matplotlib import rc_context  # heavy, and only who draws needs it

    with rc_context(STYLE):
        yield


def panels(number: int, columns: int, width: float = 3.4, height: float = 2.5) -> tuple[Figure, list[Axes]]:
    """Return a figure of a number of panels in rows of up to `columns`; sizes are in inches per panel."""
    from matplotlib.figure import Figure

    columns = max(1, min(columns, number))
    rows = -(-number // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axis in axes[number:]:
        axis.set_visible(False)
    return figure, axes[:number]


def head_and_legend(figure: Figure, title: str, entries: Sequence[Any]) -> None:
    """Put a title above all panels, and a legend below them in as many columns as fit."""
    columns = max(1, int(figure.get_figwidth() / LEGEND_INCHES))
    figure.legend(handles=list(entries), loc="outside lower center", ncols=min(columns, len(entries)))
    figure.suptitle(title, fontsize=11, x=0.01, ha="left", wrap=True)


def layer_axis(axis: Axes, layers: int) -> None:
    """Let the horizontal axis be the blocks of a network, with whole numbers."""
    step = next(step for step in (1, 2, 3, 4, 5, 8, 10, 20, 50) if layers <= 9 * step or step == 50)
    axis.set_xticks(range(0, layers, step))
    axis.set_xlim(-0.5, layers - 0.5)
    axis.grid(visible=False, axis="x")


def shade(axis: Axes, verdict: Verdict | None) -> None:
    """Draw the stages behind a panel: colours where there are three, else only where the best cuts would be."""
    if verdict is None or verdict.boundaries is None:
        return
    if verdict.three_stages:
        for (start, end), colour in zip(verdict.spans, STAGES, strict=True):
            axis.axvspan(start - 0.5, end - 0.5, color=colour, alpha=0.2, lw=0, zorder=0)
        for low, high in verdict.layer_intervals or ():
            axis.axvspan(low - 0.5 - HAIR, high - 0.5 + HAIR, color="0.35", alpha=0.25, lw=0, zorder=0.5)
    for boundary in verdict.boundaries:
        axis.axvline(boundary - 0.5, color="0.25", ls="-" if verdict.three_stages else ":", lw=1.1, zorder=0.8)


def stage_legend(verdict: Verdict | None) -> list[Any]:
    """Return the entries that say what `shade` drew."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if verdict is None or verdict.boundaries is None:
        return []
    found: list[Any] = []
    if verdict.three_stages:
        found += [
            Patch(color=colour, alpha=0.3, lw=0, label=f"{name or 'unnamed stage'}, {_blocks(span)}")
            for colour, name, span in zip(STAGES, verdict.names, verdict.spans, strict=True)
        ]
    label = "boundary" if verdict.three_stages else "best cut, not a boundary"
    found.append(Line2D([], [], color="0.25", ls="-" if verdict.three_stages else ":", lw=1.1, label=label))
    if verdict.three_stages and verdict.layer_intervals is not None:
        found.append(Patch(color="0.35", alpha=0.3, lw=0, label="its 95 % interval"))
    return found


def _blocks(span: Pair) -> str:
    first, last = span[0], span[1] - 1
    return f"block {first}" if first == last else f"blocks {first}–{last}"


def picture(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return an image [H, W, 3] in 0..1, given the network's input [3, H, W] and what it was normalised with."""
    scale, offset = (torch.tensor(tuple(values))[:, None, None] for values in (std, mean))
    return (image.detach().float().cpu() * scale + offset).clamp(0, 1).permute(1, 2, 0)


_WORDS = {
    "key_cosine": "cosine of keys",
    "state_cosine": "cosine of states",
    "neighbour_cosine": "cosine with nearest key",
    "state_neighbour_cosine": "cosine with nearest state",
    "effective_rank_keys": "effective rank of keys",
    "effective_rank_states": "effective rank of states",
    "self_similarity": "cosine with itself before",
    "cls_similarity": "cosine with class (last) token",
    "attention_entropy": "entropy of attention (1 = even)",
    "attention_share": "attention to patches",
    "norm_mean": "mean length",
    "norm_max_over_median": "longest over median length",
}


def words(metric: str) -> str:
    """Return what a metric is called in figures and tables; see `saintprune.analysis.statistics.token_statistics`."""
    name, centred = metric.removesuffix("_centred"), metric.endswith("_centred")
    kind, _, threshold = name.partition("@")
    known = {"edges": f"pairs of keys ≥ {threshold}", "degree": f"keys in reach ≥ {threshold}"}
    text = _WORDS.get(name, known.get(kind, name.replace("_", " ")))
    return text + ", centred" if centred else text
