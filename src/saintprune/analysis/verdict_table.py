"""The verdicts about several models side by side, as a table in Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from saintprune.analysis.verdict import Verdict

HEAD = ("", "blocks", "samples", "three stages", "best three segments begin at", "in words")


def verdict_table(verdicts: Mapping[str, Verdict]) -> str:
    """Return a row per verdict.

    Args:
        verdicts: by the name of the model, or of its weights.
    """
    lines = [_line(HEAD), _line(["---"] * len(HEAD))]
    return "\n".join([*lines, *(_line(_cells(name, verdict)) for name, verdict in verdicts.items())]) + "\n"


def _cells(name: str, verdict: Verdict) -> list[str]:
    begins = ", ".join(str(start) for start, _ in verdict.spans) or "nothing to cut"
    answer = "yes" if verdict.three_stages else "no"
    return [name, str(verdict.layers), str(verdict.images), answer, begins, verdict.reason]


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
