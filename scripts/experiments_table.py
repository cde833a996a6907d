"""Fill the table of docs/experiments.md: what papers report (docs/published.yaml) beside what our records say.

python scripts/experiments_table.py                  rewrite what stands between the markers
python scripts/experiments_table.py outputs/…        first keep the records of experiments that are below these folders
python scripts/experiments_table.py --check          exit with 1 if the table differs
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from saintprune.errors import SaintpruneError
from saintprune.files import write_atomically
from saintprune.reporting.cells import percent
from saintprune.reporting.records import RunRecord

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGE, PUBLISHED, RECORDS = DOCS / "experiments.md", DOCS / "published.yaml", DOCS / "records" / "experiments"
MARKED = re.compile(r"(<!-- experiments -->\n).*?(<!-- /experiments -->)", re.DOTALL)
NOT_RUN = "not run"
EARLY = "early_minus_late"
Records = dict[tuple[str, str], RunRecord]  # by model and pruning

FORMATS: dict[str, Callable[[Any], str]] = {
    "ratio": lambda value: f"{value:.2f}x",
    "points": lambda value: f"{100 * value:+.1f}".replace("-", "−"),
    "percent": lambda value: percent(value, 2),
    "text": str,
}


def keep(folders: list[Path]) -> None:
    """Copy the records of experiments to docs/records/experiments/EXPERIMENT/MODEL~PRUNING.json; the last one stays."""
    for path in sorted(path for folder in folders for path in folder.rglob("metrics.json")):
        record = RunRecord.read(path)
        experiment = record.config.get("experiment")
        if experiment is not None:
            name = f"{record.model}~{record.pruning.split(' ')[0].replace('/', '-')}.json"
            print(f"{path} -> {record.write(RECORDS / experiment / name)}")


def recorded(experiment: str, root: Path = RECORDS) -> Records:
    """Return the records of an experiment by model and pruning."""
    found = [RunRecord.read(path) for path in sorted((root / experiment).glob("*.json"))]
    return {(record.model, record.pruning.split(" ")[0]): record for record in found}


def value(expression: str, records: Records) -> Any:
    """Return what "MODEL PRUNING FIGURE", or "… - …" or "… / …" of two of them, is.

    None where a record lacks, and of a ratio to 0.
    !PRUNING is the best of all prunings but this one.
    """
    for sign in (" - ", " / "):
        if sign in expression:
            first, second = (value(part, records) for part in expression.split(sign))
            if first is None or second is None or (sign == " / " and not second):
                return None
            return first - second if sign == " - " else first / second
    model, pruning, figure = expression.split(" ")
    if pruning.startswith("!"):
        others = [record for (of, other), record in records.items() if of == model and f"!{other}" != pruning]
        return max((one for record in others if (one := look_up(record, figure)) is not None), default=None)
    record = records.get((model, pruning))
    return None if record is None else look_up(record, figure)


def look_up(record: RunRecord, figure: str) -> Any:
    """Return the figure at a path such as "delta.speedup"; None where there is none."""
    if figure == EARLY:
        return early_minus_late((record.analysis or {}).get("sensitivity") or [])
    found: Any = vars(record)
    for key in figure.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def early_minus_late(sensitivity: list[dict[str, Any]]) -> float | None:
    """Return how much more answers stay when SAINT drops at one block of the first half than of the second, on average.

    Args:
        sensitivity: of the record of an analysis: agreement by method and block.
    """
    kept = [one["agreement"] for one in sorted(sensitivity, key=lambda one: one["layer"]) if one["method"] == "saint"]
    half = len(kept) // 2
    return sum(kept[:half]) / half - sum(kept[-half:]) / half if half else None


def table(published: list[dict[str, Any]], root: Path = RECORDS) -> str:
    """Return the Markdown table: a line per figure."""
    lines = ["| experiment | figure | published | here |", "|---|---|---|---|"]
    for entry in published:
        records = recorded(entry["experiment"], root)
        lines.append(f"| **`{entry['experiment']}`** | {entry['claim']} | *{entry['source']}* | |")
        for figure in entry["figures"]:
            here = value(figure["here"], records)
            cell = NOT_RUN if here is None else FORMATS[figure["as"]](here)
            lines.append(f"| | {figure['what']} | {figure['published']} | {cell} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Keep records, and rewrite or check the page."""
    arguments = sys.argv[1:]
    try:
        keep([Path(argument) for argument in arguments if argument != "--check"])
        new = table(yaml.safe_load(PUBLISHED.read_text(encoding="utf-8")))
    except SaintpruneError as error:
        raise SystemExit(f"error: {error}") from None
    before = PAGE.read_text(encoding="utf-8")
    after = MARKED.sub(lambda found: found[1] + new + found[2], before)
    if "--check" in arguments and after != before:
        raise SystemExit(f"{PAGE.name} differs from its records: python scripts/experiments_table.py")
    if after != before:
        write_atomically(PAGE, after)


if __name__ == "__main__":
    main()
