"""One self-contained HTML page of an analysis: verdicts, pictures, tables and where they come from."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from saintprune.analysis.curves import Curves
from saintprune.analysis.figures.drawing import words
from saintprune.analysis.verdict import Verdict
from saintprune.files import write_atomically
from saintprune.markup import table, text

MOST_SVG = 600_000  # bytes; a larger drawing is shown as the PNG beside it

_CONDITIONS = (
    ("simpler", "Three segments beat one, two and a smooth drift", False),
    ("walk", "Three segments beat a random walk", False),
    ("more", "Four segments are not better", True),
    ("monotone", "Not all curves are monotone", False),
    ("shuffled", "The order of the blocks matters", False),
    ("random", "Random weights look less like it", False),
)


@dataclass(frozen=True, eq=False)
class Section:
    """One part of a model on the page.

    Attributes:
        curves: of the part.
        verdict: about it.
        raw: the verdict by raw cosines.
        figures: pairs of a PNG (its SVG may stand beside it) and a caption, which is also what a screen reader says.
    """

    curves: Curves
    verdict: Verdict
    raw: Verdict | None = None
    figures: Sequence[tuple[Path, str]] = ()


def write_page(
    path: Path,
    title: str,
    sections: Sequence[Section],
    *,
    figures: Sequence[tuple[Path, str]] = (),
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write the page, whole or not at all; it needs no network, no script and no other file.

    Args:
        path: of the HTML file.
        title: of the page.
        sections: one per part of the model.
        figures: pairs of a PNG and a caption that belong to no part.
        provenance: what the page was made from, such as model, weights, dataset, commit and date.
    """
    body = [f"<h1>{escape(title)}</h1>", *(_section(section) for section in sections)]
    if figures:
        body += ["<section>", "<h2>Single images and pruning</h2>", *(_figure(*pair) for pair in figures), "</section>"]
    if provenance:
        rows = ([escape(str(name)), escape(text(value))] for name, value in provenance.items())
        body += ["<section>", "<h2>Where this comes from</h2>", table(("", ""), rows), "</section>"]
    return write_atomically(path, _PAGE.format(title=escape(title), body="\n".join(body)))


def _section(section: Section) -> str:
    verdict = section.verdict
    answer = "three stages" if verdict.three_stages else "no three stages"
    parts = [
        f'<section id="{escape(verdict.part)}">',
        f"<h2>{escape(verdict.part)}</h2>",
        f'<p class="answer {"yes" if verdict.three_stages else "no"}"><strong>{answer}</strong></p>',
        f"<p>{escape(verdict.reason)}.</p>",
        f"<p>{verdict.images} images, {verdict.layers} blocks; what decided: "
        f"{escape(', '.join(words(name) for name in verdict.metrics))}.</p>",
    ]
    if section.raw is not None:
        parts.append(f"<p>By raw cosines instead: {escape(section.raw.reason)}.</p>")
    if verdict.boundaries is not None:
        parts += ["<h3>The best three segments</h3>", _segments(verdict), "<h3>The tests</h3>", _tests(verdict)]
        parts += ["<h3>What each description costs</h3>", _scores(verdict)]
    parts += [_figure(*pair) for pair in section.figures]
    parts += ["<details><summary>Means by block</summary>", _means(section.curves), "</details>", "</section>"]
    return "\n".join(parts)


def _segments(verdict: Verdict) -> str:
    begins = [None, *range(2)]
    rows = []
    for (start, end), name, begin in zip(verdict.spans, verdict.names, begins, strict=True):
        row = [escape(name or "unnamed"), f"{start}–{end - 1}"]
        for intervals in (verdict.intervals, verdict.layer_intervals):
            row.append("" if begin is None or intervals is None else "{}–{}".format(*intervals[begin]))
        row.append("" if begin is None or verdict.stability is None else f"{100 * verdict.stability[begin]:.0f} %")
        rows.append(row)
    head = (
        "segment",
        "blocks",
        "begins (95 %, other images)",
        "begins (95 %, other deviations)",
        "stays within one block",
    )
    return table(head, rows)


def _tests(verdict: Verdict) -> str:
    rows, scores = [], verdict.scores
    worse = {
        "simpler": min(scores[name] for name in ("1", "2", "smooth")) <= scores["3"],
        "walk": scores["walk"] <= scores["3"],
    }
    for name, question, wants_chance in _CONDITIONS:
        p = verdict.p_values.get(name)
        if p is None and worse.get(name):
            rows.append([question, "", "no, by their scores"])
        elif p is None:
            rows.append([question, "", "not needed" if name == "more" else "not tested"])
        else:
            rows.append([question, f"{p:.3g}", "yes" if (p > 0.05) == wants_chance else "no"])
    return table(("condition", "p", "holds"), rows)


def _scores(verdict: Verdict) -> str:
    names = {"smooth": "smooth drift", "walk": "random walk", "1": "1 segment"}
    best = min(verdict.scores.values())
    begins = {str(len(cut) + 1): ", ".join(map(str, cut)) for cut in verdict.cuts}
    rows = [
        [
            escape(names.get(name, f"{name} segments")),
            begins.get(name, ""),
            f"{score:.1f}",
            "lowest" if score == best else "",
        ]
        for name, score in verdict.scores.items()
    ]
    return table(("description", "cut before blocks", "score (lower is better)", ""), rows)


def _means(curves: Curves) -> str:
    rows = (
        [escape(words(name)), *(f"{value:.3g}" if value == value else "" for value in mean.tolist())]
        for name, mean in curves.means().items()
    )
    return table(("metric", *map(str, range(curves.layers))), rows)


def _figure(path: Path, caption: str) -> str:
    drawing = path.with_suffix(".svg")
    small = drawing.exists() and drawing.stat().st_size <= MOST_SVG
    kind, data = ("svg+xml", drawing.read_bytes()) if small else ("png", path.read_bytes())
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    says = escape(caption)
    return f'<figure><img src="{source}" alt="{says}"><figcaption>{says}</figcaption></figure>'


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; }}
body {{ max-width: 70rem; margin: 0 auto; padding: 1rem; }}
h1, h2, h3 {{ line-height: 1.2; }}
h2 {{ border-top: 2px solid #ddd; padding-top: 1rem; margin-top: 2.5rem; }}
.answer {{ display: inline-block; margin: 0; padding: .25rem .75rem; border-left: .4rem solid; background: #f4f4f4; }}
.answer.yes {{ border-color: #009e73; }}
.answer.no {{ border-color: #d55e00; }}
figure {{ margin: 1.5rem 0; }}
img {{ max-width: 100%; height: auto; background: #fff; }}
figcaption {{ color: #444; font-size: .95em; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .9em; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top; }}
th:first-child, td:last-child {{ text-align: left; }}
tbody th {{ font-weight: normal; white-space: nowrap; }}
summary {{ cursor: pointer; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
