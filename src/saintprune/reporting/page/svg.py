"""Charts as inline SVG: they take the page's colours, light or dark, and every mark says in words what it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

STYLES = 8  # colours that the page's style sheet has
MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z",  # circle
    "M-3.5 -3.5h7v7h-7Z",  # square
    "M0 -4.8L4.5 3.5h-9Z",  # triangle
    "M0 -5L5 0L0 5L-5 0Z",  # diamond
    "M0 4.8L4.5 -3.5h-9Z",  # triangle, downwards
    "M-1.4 -4.5h2.8v3.1h3.1v2.8h-3.1v3.1h-2.8v-3.1h-3.1v-2.8h3.1Z",  # plus
)
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 38  # margins in user units; a unit is a CSS pixel at full width


@dataclass(frozen=True)
class Axis:
    """A scale.

    Attributes:
        low: value at its beginning.
        high: value at its end; smaller than `low` where the axis runs backwards.
        ticks: values with a label.
        label: what is measured.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    label: str

    def at(self, value: float, start: float, end: float) -> float:
        """Return where a value lies between two ends."""
        return start + (value - self.low) / (self.high - self.low) * (end - start)


@dataclass(frozen=True)
class Point:
    """A place in a chart, and the words that a reader gets on it; `low` and `high` are of an interval along x."""

    x: float
    y: float
    says: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """What is drawn in one colour.

    Attributes:
        points: in the order in which a line connects them.
        style: number of its colour and marker, or a class of the style sheet, such as "faint" for the background.
        line: whether a line connects the points.
        marked: whether points have markers.
        dashed: whether the line is.
    """

    points: Sequence[Point]
    style: int | str
    line: bool = True
    marked: bool = True
    dashed: bool = False


def axis(values: Iterable[float], label: str, *, backwards: bool = False, ticks: int = 5, whole: bool = False) -> Axis:
    """Return an axis from round number to round number that holds all values.

    Args:
        values: at least one.
        label: what is measured.
        backwards: whether small values lie at the end.
        ticks: about so many.
        whole: whether ticks are whole numbers and the axis ends at the outermost values, as for layers.
    """
    known = sorted(values)
    low, high = known[0], known[-1]
    span = (high - low) or abs(high) or 1.0
    step = _round_step(span / ticks, 1.0 if whole else 0.0)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    last += first == last
    marks = tuple(round(number * step, 10) for number in range(first, last + 1))
    ends: tuple[float, float] = (low, high if high > low else low + 1) if whole else (marks[0], marks[-1])
    marks = tuple(mark for mark in marks if ends[0] <= mark <= ends[1])
    return Axis(ends[backwards], ends[not backwards], marks, label)


def chart(
    title: str, x: Axis, y: Axis, series: Sequence[Series], *, levels: Sequence[tuple[float, str]] = (),
    size: tuple[int, int] = (460, 300),
) -> str:  # fmt: skip
    """Return a chart as `<svg>`.

    Args:
        title: what a screen reader says; the table beside the chart has the numbers.
        x: horizontal axis.
        y: vertical axis.
        series: drawn in this order.
        levels: values of y with a dashed line across, and its label.
        size: width and height in user units.
    """
    width, height = size
    right, bottom = width - RIGHT, height - BOTTOM

    def place(point: Point) -> tuple[float, float]:
        return x.at(point.x, LEFT, right), y.at(point.y, bottom, TOP)

    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{escape(title)}">',
        *_grid(x, y, right, bottom),
    ]
    for value, label in levels:
        at = y.at(value, bottom, TOP)
        parts.append(f'<path class="level" d="M{LEFT} {at:.1f}H{right}"/>')
        if label:
            parts.append(f'<text class="small" x="{right}" y="{at - 4:.1f}" text-anchor="end">{escape(label)}</text>')
    for one in series:
        places = [place(point) for point in one.points]
        bars = [
            f'<path class="bar" d="M{x.at(point.low, LEFT, right):.1f} {at[1]:.1f}'
            f'H{x.at(point.high, LEFT, right):.1f}"/>'
            for point, at in zip(one.points, places, strict=True)
            if point.low is not None and point.high is not None
        ]
        parts.append(f'<g class="{_class(one)}">{"".join(bars)}{_line(one, places)}{_marks(one, places)}</g>')
    return "\n".join([*parts, "</svg>"])


def swatch(style: int | str, *, dashed: bool = False, marked: bool = True) -> str:
    """Return the sign of a series for a legend."""
    one = Series((Point(0, 0),), style, marked=marked, dashed=dashed)
    line = "" if marked else '<path class="line" d="M-9 0H9"/>'
    marks = _marks(one, [(0.0, 0.0)]) if marked else ""
    return (
        f'<svg class="swatch" viewBox="-10 -7 20 14" width="20" height="14" aria-hidden="true">'
        f'<g class="{_class(one)}">{line}{marks}</g></svg>'
    )


def _grid(x: Axis, y: Axis, right: float, bottom: float) -> list[str]:
    """Return the lines and labels of both axes."""
    parts = []
    for value in y.ticks:
        at = y.at(value, bottom, TOP)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{right}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in x.ticks:
        at = x.at(value, LEFT, right)
        parts.append(f'<path class="grid" d="M{at:.1f} {bottom}v4"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{value:g}</text>')
    middle = (LEFT + right) / 2
    parts.append(f'<path class="frame" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
    parts.append(f'<text x="{middle:.0f}" y="{bottom + 33}" text-anchor="middle">{escape(x.label)}</text>')
    if y.label:
        up = (TOP + bottom) / 2
        turned = f'transform="translate(12 {up:.0f}) rotate(-90)"'
        parts.append(f'<text {turned} text-anchor="middle">{escape(y.label)}</text>')
    return parts


def _class(one: Series) -> str:
    kind = f"s{one.style % STYLES}" if isinstance(one.style, int) else one.style
    return f"{kind} dashed" if one.dashed else kind


def _line(one: Series, places: Sequence[tuple[float, float]]) -> str:
    if not one.line or len(places) < 2:
        return ""
    return f'<path class="line" d="M{"L".join(f"{across:.1f} {up:.1f}" for across, up in places)}"/>'


def _marks(one: Series, places: Sequence[tuple[float, float]]) -> str:
    """Return the markers, each with its words; of a series without markers, those of its line."""
    number = one.style + 5 * (one.style // STYLES) if isinstance(one.style, int) else 0  # 48 signs that differ
    shape = MARKERS[number % len(MARKERS)] if one.marked else "M-7 -7h14v14h-14Z"
    kind = "mark" if one.marked else "touch"
    found = []
    for point, (across, up) in zip(one.points, places, strict=True):
        words = f"<title>{escape(point.says)}</title>" if point.says else ""
        if one.marked or words:
            found.append(
                f'<path class="{kind}" transform="translate({across:.1f} {up:.1f})" d="{shape}">{words}</path>'
            )
    return "".join(found)


def _round_step(least: float, smallest: float) -> float:
    """Return the smallest of 1, 2, 2.5, 5 times a power of ten that is at least so large."""
    power = 10.0 ** floor(log10(least))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= least * (1 - 1e-9))
    return max(ceil(step), smallest) if smallest else step
