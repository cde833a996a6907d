"""Look for stages anew in curves that task=analyze wrote, without tracing again: after a change of the instrument.

    python scripts/judge_again.py FOLDER [FOLDER ...]       folders of runs of task=analyze

Rewrites each folder's `stages.yaml`, the figures of its parts and the verdicts in its `metrics.json`, where `judged`
names the commit that judged. The page of the run would tell the old verdicts and is removed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from saintprune.analysis.curves import Curves
from saintprune.analysis.report import part_figures
from saintprune.analysis.stage_file import read_stages, stages_content, write_stages
from saintprune.analysis.study import Part, judged
from saintprune.errors import SaintpruneError
from saintprune.files import write_atomically
from saintprune.reporting.records import source_commit


def main(folder: Path) -> None:
    """Judge one run."""
    (record, draws, seed), old = record_in(folder), read_stages(folder / "stages.yaml")
    parts = [part_of(folder / "curves" / name.replace("/", "-"), draws, seed) for name in old["parts"]]
    content = stages_content(
        [part.verdict for part in parts],
        [part.raw for part in parts],
        model=old["model"],
        dataset=old["dataset"],
        split=old["split"],
        record=old["record"],
    )
    for part in parts:
        print(f"{part.name}: {part.verdict.reason}\n  by raw cosines: {part.raw.reason}")
        part_figures(folder / "figures" / part.name.replace("/", "-"), part)
    record["analysis"] |= {"parts": content["parts"], "judged": source_commit()}
    write_stages(folder / "stages.yaml", content)
    write_atomically(folder / "metrics.json", json.dumps(record, indent=2) + "\n")
    (folder / "analysis.html").unlink(missing_ok=True)


def record_in(folder: Path) -> tuple[dict[str, Any], int, int]:
    """Return the record of a run of task=analyze, its number of draws and its seed.

    Raises:
        SaintpruneError: there is none, or it is of something else.
    """
    path = folder / "metrics.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record, record["config"]["analysis"]["draws"], record["seed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise SaintpruneError(f"{path} is no record of task=analyze ({reason}): run it again") from error


def part_of(folder: Path, draws: int, seed: int) -> Part:
    """Return one part of a run with its verdicts."""
    twins = {path.name.replace("-", " "): Curves.load(path) for path in sorted(folder.iterdir()) if path.name != "own"}
    return judged(Curves.load(folder / "own"), twins, draws, seed)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        for name in sys.argv[1:]:
            main(Path(name))
    except (SaintpruneError, OSError) as error:
        sys.exit(f"error: {error}")
