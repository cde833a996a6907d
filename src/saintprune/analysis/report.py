"""The files of an analysis: tables, figures, and one page with all of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saintprune.analysis.figures.curves import curves_figure, distribution_figure, heatmap_figure
from saintprune.analysis.figures.page import Section, write_page
from saintprune.analysis.figures.pictures import similarity_figure, survivors_figure
from saintprune.analysis.figures.sensitivity import sensitivity_figure
from saintprune.analysis.sensitivity import Sensitivity
from saintprune.analysis.show import Shown
from saintprune.analysis.study import Part
from saintprune.files import write_atomically

Figures = list[tuple[Path, str]]


@dataclass(frozen=True, eq=False)
class Report:
    """What an analysis found.

    Attributes:
        title: of the page.
        parts: of the network.
        sensitivity: rows; may be empty.
        shown: single images; None where there are none.
        site: where the share was dropped.
        provenance: what the page was made from.
    """

    title: str
    parts: Sequence[Part]
    sensitivity: Sequence[Sensitivity]
    shown: Shown | None
    site: str
    provenance: Mapping[str, Any]


def write_report(folder: Path, report: Report) -> Path:
    """Write `curves/`, `figures/`, `sensitivity.csv` and `analysis.html`; return the path of the page."""
    sections = []
    for part in report.parts:
        place = part.name.replace("/", "-")
        part.curves.save(folder / "curves" / place / "own")
        for name, curves in part.twins.items():
            curves.save(folder / "curves" / place / name.replace(" ", "-"))
        sections.append(Section(part.curves, part.verdict, part.raw, part_figures(folder / "figures" / place, part)))
    if report.sensitivity:
        _write_rows(folder / "sensitivity.csv", report.sensitivity)
    figures = _other_figures(folder / "figures", report)
    return write_page(
        folder / "analysis.html", report.title, sections, figures=figures, provenance=dict(report.provenance)
    )


def part_figures(folder: Path, part: Part) -> Figures:
    """Draw what belongs to one part; return pairs of a PNG and its caption."""
    verdict = part.verdict
    made = curves_figure(part.curves, folder / "curves.png", verdict, random=part.twins)
    figures = [(made, f"{part.name}: the metrics that decide, block by block, beside networks with random weights.")]
    made = curves_figure(part.curves, folder / "curves_raw.png", part.raw, random=part.twins)
    figures.append((made, f"{part.name}: the same by raw cosines, in which what all tokens have in common counts too."))
    made = heatmap_figure(part.curves, folder / "heatmap.png", verdict)
    figures.append((made, f"{part.name}: every metric, standardised over the blocks."))
    made = distribution_figure(part.curves, folder / "distributions.png", verdict)
    figures.append((made, f"{part.name}: how the cosines of pairs of tokens are distributed, as they are and centred."))
    return figures


def _other_figures(folder: Path, report: Report) -> Figures:
    """Draw what belongs to no part: sensitivity, similarity of single images, and what is left of them."""
    figures: Figures = []
    decides = {"vision": "vision", "language": "language/vision-vision"}[report.site]
    verdict = next((part.verdict for part in report.parts if part.name == decides), None)
    if report.sensitivity:
        layers = None if verdict is None else verdict.layers
        made = sensitivity_figure(report.sensitivity, folder / "sensitivity.png", verdict, layers=layers)
        share = report.sensitivity[0].share
        figures.append((made, f"What it costs to drop {share:.0%} of the patches at one block alone ({report.site})."))
    shown = report.shown
    if shown is None:
        return figures
    for number, image in enumerate(shown.images):
        keys = {layer: key[number] for layer, key in shown.keys.items()}
        made = similarity_figure(
            image, keys, shown.grid, folder / f"similarity_{number}.png", mean=shown.mean, std=shown.std
        )
        figures.append((made, f"Image {number}: cosines of its patches' keys at chosen blocks, raw and centred."))
    for site, left in shown.left.items():
        title = f"Patches that pruning={shown.plan_name} leaves, {site}"
        path = folder / f"survivors_{site}.png"
        made = survivors_figure(shown.images, left, shown.grid, path, mean=shown.mean, std=shown.std, title=title)
        figures.append((made, f"{title}."))
    return figures


def _write_rows(path: Path, rows: Sequence[Sensitivity]) -> None:
    """Write the rows as CSV, whole or not at all; an interval takes two columns."""
    flat = [_flat(row.as_dict()) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    write_atomically(path, text.getvalue())


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        if name.endswith("_ci95"):
            found[f"{name}_low"], found[f"{name}_high"] = value or ("", "")
        else:
            found[name] = "" if value is None else value
    return found
