"""Write the tables of README from the records in docs/records, so that no figure stands there without its record.

python scripts/results_table.py            rewrite what stands between the markers
python scripts/results_table.py --check    exit with 1 if it differs
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from saintprune.reporting.records import RunRecord
from saintprune.reporting.tables import layers_line, percent

ROOT = Path(__file__).resolve().parents[1]
MARKED = re.compile(r"(<!-- results: (\S+) -->\n).*?(<!-- /results -->)", re.DOTALL)
HEADER = "| pruning | accuracy | change (95 %) | same answers | GFLOPs | speed-up (95 %) | tokens leaving each block |"


def table(folder: Path) -> str:
    """Return the Markdown table of the records in a folder, the unpruned network first, then by agreement."""
    records = [RunRecord.read(path) for path in folder.glob("*.json")]
    if not records:
        raise SystemExit(f"{folder} holds no record")
    records.sort(key=lambda record: (-(record.agreement or 0.0), record.pruning))
    first = records[0]
    unpruned = f"| unpruned | {percent(first.baseline['accuracy'])} | | | {first.baseline['gflops']:.1f} | 1 | "
    lines = [HEADER, "|---" * 7 + "|", unpruned + f"{layers_line(first.baseline['tokens_per_layer'])} |"]
    return "\n".join([*lines, *map(row, records)]) + f"\n\n{caption(records)}\n"


def row(record: RunRecord) -> str:
    """Return one line of the table."""
    delta = record.delta
    accuracy, speed = (f"({scale * low:+.1f} to {scale * high:+.1f})" for scale, (low, high) in
                       ((100, delta["accuracy_ci95"]), (1, delta["speedup_ci95"])))  # fmt: skip
    cells = [
        record.pruning.rpartition("/")[2].rpartition("_")[0] or record.pruning,
        percent(record.pruned["accuracy"]),
        f"{100 * delta['accuracy']:+.1f} {accuracy}",
        percent(record.agreement),
        f"{record.pruned['gflops']:.1f}",
        f"{delta['speedup']:.2f} {speed.replace('+', '')}",
        layers_line(record.pruned["tokens_per_layer"]),
    ]
    return "| " + " | ".join(cells) + " |"


def caption(records: list[RunRecord]) -> str:
    """Return what all records of a table share."""
    first = records[0]
    device = f"{first.hardware['device']}, {first.hardware['precision']}, batches of {first.hardware['batch_size']}"
    return (
        f"{first.model} on {first.dataset}, {first.num_samples} test images; {device}; torch {first.versions['torch']}."
    )


def main() -> None:
    """Rewrite or check README."""
    readme = ROOT / "README.md"
    before = readme.read_text()
    after = MARKED.sub(lambda found: found[1] + table(ROOT / "docs" / "records" / found[2]) + found[3], before)
    if "--check" in sys.argv and after != before:
        raise SystemExit("README.md differs from its records: python scripts/results_table.py")
    if after != before:
        readme.write_text(after)


if __name__ == "__main__":
    main()
