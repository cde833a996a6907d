"""Turn records into one self-contained HTML page: tables, what pruning costs and saves, layer curves, provenance.

    python scripts/report.py outputs/multirun/2026-11-22/14-02-11
    python scripts/report.py docs/records/vit_s14-elpv-flops docs/records/analysis -o report.html

Takes folders of runs, sweeps and comparisons, and single records. One that cannot be read costs a line on the page.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from saintprune.analysis.figures.drawing import words
from saintprune.errors import SaintpruneError
from saintprune.files import write_atomically
from saintprune.reporting.page.collect import collect
from saintprune.reporting.page.document import document


def main(arguments: list[str] | None = None) -> int:
    """Write the page; return the exit code, 1 where there is no record at all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore[reportOptionalMemberAccess]
    parser.add_argument("paths", nargs="+", type=Path, help="folders or records")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), help="the page (report.html)")
    parser.add_argument("--title", default="saintprune: records", help="of the page")
    chosen = parser.parse_args(arguments)
    try:
        entries, problems = collect(chosen.paths)
        for one in problems:
            print(f"not read: {one.path} {one.reason}", file=sys.stderr)
        if not entries:
            raise SaintpruneError(f"no record in {', '.join(map(str, chosen.paths))}: a run writes metrics.json")
        write_atomically(chosen.output, document(entries, problems, chosen.title, words))
    except SaintpruneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"report: {chosen.output} ({len(entries)} records, {len(problems)} not read)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
