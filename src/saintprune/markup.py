"""What the HTML pages share: escaped text and tables that a screen reader and a keyboard can follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", kind: str = "") -> str:
    """Return a table; the cells are HTML, the first of a row is its heading.

    Args:
        head: of the columns; all empty is none.
        rows: as many cells as the head has.
        caption: in words, as text; it also names the region in which a wide table can be scrolled by keyboard.
        kind: class of the table in the style sheet.
    """
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head) if any(head) else ""
    lines = [f"<caption>{escape(caption)}</caption>"] if caption else []
    lines += [f"<thead><tr>{top}</tr></thead>"] if top else []
    lines.append("<tbody>")
    for first, *others in rows:
        lines.append(f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others) + "</tr>")
    region = f' role="region" aria-label="{escape(caption)}"' if caption else ""
    named = f' class="{kind}"' if kind else ""
    return f'<div class="wide" tabindex="0"{region}><table{named}>' + "\n".join([*lines, "</tbody>"]) + "</table></div>"


def text(value: Any) -> str:
    """Return a value of a record or config in words, not escaped."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {text(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(text(item) for item in value)
    return str(value)
