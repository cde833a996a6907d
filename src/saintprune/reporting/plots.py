"""The figure of a sweep: accuracy (or agreement) against realised speed-up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from saintprune.files import write_figure
from saintprune.reporting.records import RunRecord
from saintprune.reporting.tables import sweep_names


def sweep_figure(records: Sequence[RunRecord], path: Path) -> Path | None:
    """Draw accuracy and agreement of the runs against their speed-up, with its interval; write PNG and SVG.

    Args:
        records: of the sweep; those without a speed-up are left out.
        path: of the PNG; the SVG stands beside it.

    Returns:
        The path, or None where there is nothing to draw.
    """
    called = zip(sweep_names(records), records, strict=True)
    named = [(name, record) for name, record in called if record.delta.get("speedup") is not None]
    timed = [record for _, record in named]
    panels = [
        (name, measure)
        for name, measure in (("accuracy, %", lambda r: r.pruned["accuracy"]), ("agreement, %", lambda r: r.agreement))
        if any(measure(record) is not None for record in timed)
    ]
    if not panels:
        return None
    from matplotlib.figure import Figure  # heavy, and a run without a sweep never needs it

    figure = Figure(figsize=(5.2 * len(panels), 4.2), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (label, measure) in zip(axes, panels, strict=True):
        for name, record in named:
            if (value := measure(record)) is not None:
                _point(axis, name, record, 100 * value)
        axis.set(xlabel=_what_is_faster(timed), ylabel=label)
        axis.grid(alpha=0.3)
    _unpruned_lines(axes[0], timed) if panels[0][0].startswith("accuracy") else None
    axes[-1].legend(fontsize="small", loc="best")
    return write_figure(figure, path)


def _what_is_faster(records: Sequence[RunRecord]) -> str:
    """Return the label of the speed-up; of a language model it is that of an answer of some length."""
    lengths = {(record.benchmark or {}).get("new_tokens") for record in records}
    if lengths == {None}:
        return "speed-up over unpruned"
    tokens = f" of {lengths.pop()} tokens" if len(lengths) == 1 else ""
    return f"speed-up of an answer{tokens} over unpruned"


def _point(axis, name: str, record: RunRecord, value: float) -> None:
    """Draw one run with the interval of its speed-up."""
    speedup, (low, high) = record.delta["speedup"], record.delta["speedup_ci95"]
    axis.errorbar(speedup, value, xerr=[[speedup - low], [high - speedup]], fmt="o", capsize=2, label=name, ms=6)


def _unpruned_lines(axis, records: Sequence[RunRecord]) -> None:
    """Draw the accuracy of each unpruned network as a dashed line."""
    for value in {record.baseline["accuracy"] for record in records if record.baseline["accuracy"] is not None}:
        axis.axhline(100 * value, ls="--", lw=1, color="0.5")
        axis.annotate("unpruned", (0.99, 100 * value), xycoords=("axes fraction", "data"), ha="right", va="bottom")
