"""The page itself: one HTML document without scripts, without other files, light or dark as the reader has it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from saintprune.markup import table
from saintprune.reporting.page import charts, tables
from saintprune.reporting.page.collect import Entry, Problem

Words = Callable[[str], str]


def document(
    entries: Sequence[Entry], problems: Sequence[Problem], title: str, words: Words = lambda metric: metric
) -> str:
    """Return the page.

    Args:
        entries: the records; may be none.
        problems: what could not be read.
        title: of the page.
        words: what a metric of an analysis is called.
    """
    groups: dict[tuple[bool, str], list[Entry]] = {}
    for one in entries:
        analysed, name = one.record.analysis is not None, f"{one.record.model} on {one.record.dataset}"
        groups.setdefault((analysed, f"Analysis of {name}" if analysed else name), []).append(one)
    sections = [("Not read", _problems(problems))] if problems else []
    for (analysed, name), found in sorted(groups.items(), key=lambda item: item[0]):
        sections.append((name, _analyses(found, words) if analysed else _measured(name, found)))
    if entries:
        sections.append(("Where this comes from", tables.provenance(entries)))
    contents = "".join(f'<li><a href="#{_anchor(name)}">{escape(name)}</a></li>' for name, _ in sections)
    body = "\n".join(
        f'<section aria-labelledby="{_anchor(name)}"><h2 id="{_anchor(name)}">{escape(name)}</h2>{content}</section>'
        for name, content in sections
    )
    made = datetime.now(UTC).isoformat(timespec="minutes")
    count = f"{len(entries)} record{'s' * (len(entries) != 1)}, {len(problems)} not read. Made {made}."
    frame = Template(files("saintprune.reporting.page").joinpath("page.html").read_text(encoding="utf-8"))
    return frame.substitute(title=escape(title), count=count, contents=contents, body=body)


def _measured(name: str, entries: Sequence[Entry]) -> str:
    """Return what was measured of one model on one dataset."""
    parts = [tables.runs(entries, f"Runs of {name}")]
    if matrix := tables.budgets(entries):
        parts.append(f"<details open><summary>Methods by budget</summary>{matrix}</details>")
    measured = [one for one in entries if one.row.reason is None]
    if drawn := charts.pareto(measured):
        parts.append(f"<h3>What pruning costs and saves</h3>{drawn}")
    if drawn := charts.layers(measured):
        parts.append(f"<h3>Layer by layer</h3>{drawn}")
    return "\n".join(parts)


def _analyses(entries: Sequence[Entry], words: Words) -> str:
    return "\n".join(_analysis(one, words) for one in entries)


def _analysis(one: Entry, words: Words) -> str:
    """Return what task=analyze found: a verdict and its curves per part, and what dropping costs block by block."""
    found: Mapping[str, Any] = one.record.analysis or {}
    parts = [f"<p><code>{escape(one.path)}</code>, {found.get('samples', 'an unknown number of')} samples</p>"]
    for name, verdict in (found.get("parts") or {}).items():
        answer = "three stages" if verdict.get("three_stages") else "no three stages"
        parts.append(f"<h3>{escape(name)}: {answer}</h3><p>{escape(str(verdict.get('verdict', '')))}</p>")
        own = [curves for curves in one.curves if curves.part == name]
        parts.append(charts.curves(own, verdict.get("metrics") or [], words))
    if rows := found.get("sensitivity"):
        parts.append("<h3>What it costs to drop at one block alone</h3>" + _sensitivity(rows))
    return "\n".join(parts)


def _sensitivity(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return agreement by method and block."""
    layers = sorted({int(row["layer"]) for row in rows})
    cells = {(row["method"], int(row["layer"])): row.get("agreement") for row in rows}
    share = 100 * rows[0].get("share", 0)
    body = [
        [
            escape(method),
            *("" if (value := cells.get((method, layer))) is None else f"{100 * value:.0f}" for layer in layers),
        ]
        for method in dict.fromkeys(row["method"] for row in rows)
    ]
    caption = f"Same answers, %, with {share:.0f} % of the patches dropped at one block"
    return table(("method", *map(str, layers)), body, caption)


def _problems(problems: Sequence[Problem]) -> str:
    return (
        "<ul>" + "".join(f"<li><code>{escape(one.path)}</code> {escape(one.reason)}</li>" for one in problems) + "</ul>"
    )


def _anchor(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
