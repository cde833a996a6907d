"""The charts of the page: what pruning costs and saves, tokens layer by layer, curves of an analysis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from math import isfinite

from saintprune.reporting.logged import OWN, LayerCurves
from saintprune.reporting.page.collect import Entry
from saintprune.reporting.page.svg import Point, Series, axis, chart, swatch

UP = {"accuracy": "accuracy, %", "agreement": "same answer as unpruned, %"}
ACROSS = {"speedup": "speed-up over unpruned", "gflops_ratio": "share of the unpruned FLOPs"}
KINDS = {
    "tokens": "tokens that leave each block",
    "image_tokens": "image tokens that leave each decoder layer",
    "tower_tokens": "tokens that leave each block of the tower",
}
SMALL = (230, 170)  # width and height


def styles(entries: Sequence[Entry]) -> dict[str, int]:
    """Return method -> number of its colour and marker, the same in all charts of a group."""
    return {method: number for number, method in enumerate(sorted({one.method for one in entries}))}


def pareto(entries: Sequence[Entry]) -> str:
    """Return a chart per pair of what is lost and what is saved, and one legend; empty where nothing was measured."""
    numbers = styles(entries)
    drawn = [_pareto(entries, numbers, up, across) for up in UP for across in ACROSS]
    drawn = [one for one in drawn if one]
    if not drawn:
        return ""
    legend = [(swatch(number), method) for method, number in numbers.items()]
    legend += [(swatch("faint", dashed=True, marked=False), "unpruned"),
               (swatch("front", marked=False), "front: no other run is better in both")]  # fmt: skip
    return f'<div class="charts">{"".join(drawn)}</div>{_legend(legend)}'


def _pareto(entries: Sequence[Entry], numbers: dict[str, int], up: str, across: str) -> str:
    points: dict[str, list[Point]] = {}
    for one in entries:
        x, y = getattr(one.row, across), getattr(one.row, up)
        if x is not None and y is not None:
            interval = (one.row.speedup_low, one.row.speedup_high) if across == "speedup" else (None, None)
            says = f"{one.name}: {UP[up].split(',')[0]} {100 * y:.1f} %, {ACROSS[across]} {x:.2f}"
            points.setdefault(one.method, []).append(Point(x, 100 * y, says, *interval))
    if not points:
        return ""
    whole = [one.row.unpruned_accuracy for one in entries if up == "accuracy"]
    levels = [(100 * value, "unpruned") for value in sorted({value for value in whole if value is not None})[:1]]
    every = [point for found in points.values() for point in found]
    ends = [end for point in every for end in (point.low, point.high) if end is not None]
    series = [
        Series(sorted(points[method], key=lambda point: point.x), numbers[method], line=len(found) > 1)
        for method, found in sorted(points.items())
    ]
    series.insert(0, Series(_front(every, across == "gflops_ratio"), "front", marked=False))
    title = f"{UP[up]} against {ACROSS[across]}, {len(every)} runs; the table has the numbers"
    x_axis = axis([point.x for point in every] + ends + [1.0], ACROSS[across], backwards=across == "gflops_ratio")
    y_axis = axis([point.y for point in every] + [value for value, _ in levels], UP[up])
    return f"<figure>{chart(title, x_axis, y_axis, series, levels=levels)}</figure>"


def _front(points: Sequence[Point], less: bool) -> list[Point]:
    """Return the points that no other one beats in both, from the most expensive; `less` says that x is a cost."""
    best: list[Point] = []
    for point in sorted(points, key=lambda one: (one.x if less else -one.x, -one.y)):
        if not best or point.y > best[-1].y:
            best.append(Point(point.x, point.y))
    return best[::-1]


def layers(entries: Sequence[Entry]) -> str:
    """Return tokens layer by layer: a small chart per method, all the other methods faint behind it."""
    numbers, parts = styles(entries), []
    for kind, words in KINDS.items():
        known = [one for one in entries if "pruned" in one.tokens.get(kind, {})]
        if not known:
            continue
        lines = {id(one): _tokens(one, kind, "pruned", one.name) for one in known}
        whole = _tokens(known[0], kind, "unpruned", "unpruned")
        every = [point for found in [*lines.values(), whole] for point in found]
        x_axis = axis([point.x for point in every], "layer", ticks=4, whole=True)
        y_axis = axis([point.y for point in every] + [0.0], "", ticks=4)
        parts.append(f"<h4>{words[0].upper()}{words[1:]}</h4>")
        small = []
        for method in numbers:
            own = [one for one in known if one.method == method]
            if own:
                behind = [Series(lines[id(one)], "faint", marked=False) for one in known if one.method != method]
                front = [Series(lines[id(one)], numbers[method], marked=False) for one in own]
                bare = [Series([Point(p.x, p.y) for p in one.points], "faint", marked=False) for one in behind]
                unpruned = Series(whole, "faint", marked=False, dashed=True)
                title = f"{method}: {words}, {len(own)} runs"
                drawn = chart(title, x_axis, y_axis, [*bare, unpruned, *front], size=SMALL)
                small.append(f"<figure><figcaption>{escape(method)}</figcaption>{drawn}</figure>")
        parts.append(f'<div class="charts small">{"".join(small)}</div>')
    return "\n".join(parts)


def _tokens(one: Entry, kind: str, arm: str, name: str) -> list[Point]:
    values = one.tokens[kind].get(arm, [])
    return [Point(layer, value, f"{name}: {value:.0f} after block {layer}") for layer, value in enumerate(values)]


def curves(part: Sequence[LayerCurves], metrics: Sequence[str], words: Callable[[str], str]) -> str:
    """Return a small chart per metric of one part of a network: its own, and those of random weights behind it.

    Args:
        part: of one part, the network's own first.
        metrics: that decided, in this order.
        words: what a metric is called.
    """
    small = []
    for metric in metrics:
        known = [(one, _finite(one.values[metric], words(metric))) for one in part if metric in one.values]
        if not any(points for _, points in known):
            continue
        every = [point for _, points in known for point in points]
        x_axis = axis([point.x for point in every], "block", ticks=4, whole=True)
        y_axis = axis([point.y for point in every], "", ticks=4)
        series = [
            Series(
                points, 0 if one.network == OWN else "faint", marked=False, dashed=one.network.startswith("shuffled")
            )
            for one, points in reversed(known)
        ]
        drawn = chart(f"{words(metric)}, block by block", x_axis, y_axis, series, size=SMALL)
        small.append(f"<figure><figcaption>{escape(words(metric))}</figcaption>{drawn}</figure>")
    names = [(swatch(0, marked=False), "this network"), (swatch("faint", marked=False), "weights initialised anew"),
             (swatch("faint", marked=False, dashed=True), "weights shuffled")]  # fmt: skip
    return f'<div class="charts small">{"".join(small)}</div>{_legend(names)}' if small else ""


def _finite(values: Sequence[float], name: str) -> list[Point]:
    return [
        Point(layer, value, f"{name}: {value:.3g} at block {layer}")
        for layer, value in enumerate(values)
        if isfinite(value)
    ]


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    return '<ul class="legend">' + "".join(f"<li>{sign}{escape(name)}</li>" for sign, name in entries) + "</ul>"
