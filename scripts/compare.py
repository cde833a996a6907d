"""Run several prunings of one model on one dataset, and keep a record of each.

    python scripts/compare.py FOLDER 'drop50/*' drop75/saint_hybrid --overrides model=vlm_s14_smollm2 dataset=elpv_vqa
    python scripts/compare.py FOLDER saint tome random --targets flops:0.67 flops:0.5 --seeds 3 --report
    python scripts/compare.py FOLDER --in-turn 10 --report

As a multirun does, but the model is loaded once, and asked once without pruning. With targets, each pruning of a
network that looks at images is calibrated to each of them on unlabelled training images; one that cannot get there is
recorded as out of reach. A cell whose record is there already, made of the same config, is not run again. The exit
code is 1 where a cell failed. Cells that ran one after the other met different minutes of the machine; --in-turn times
them all again, round by round, and tables and figures then show those speeds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from saintprune.analysis.figures.pareto import pareto_figure
from saintprune.errors import SaintpruneError
from saintprune.reporting.results import read_rows, write_csv
from saintprune.wiring_compare import cells, chosen, run_all
from saintprune.wiring_in_turn import time_folder


def main() -> int:
    """Compose, run and record; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore[reportOptionalMemberAccess]
    parser.add_argument("folder", type=Path, help="for the records, PRUNING[@TARGET][~seedK].json each")
    parser.add_argument("prunings", nargs="*", help="files in conf/pruning, or patterns of such, as 'drop50/*'")
    parser.add_argument("--targets", nargs="*", default=[], help="to calibrate to, as flops:0.5 (image networks)")
    parser.add_argument("--seeds", type=int, help="run prunings whose method has a seed with 0..SEEDS-1")
    parser.add_argument("--overrides", nargs="*", default=[], help="KEY=VALUE, as for run.py, such as model=NAME")
    parser.add_argument("--in-turn", type=int, metavar="ROUNDS", help="time all cells of the folder in turn")
    parser.add_argument("--report", action="store_true", help="write results.csv, pareto.png and pareto.svg")
    arguments = parser.parse_args()
    if not arguments.prunings and not arguments.report and arguments.in_turn is None:
        parser.error("name prunings to run, or ask for --in-turn or --report")
    try:
        planned = cells(chosen(arguments.prunings), arguments.overrides, arguments.targets, arguments.seeds)
        failed = run_all(arguments.folder, planned)
        if arguments.in_turn is not None:
            for name, speedup in sorted(time_folder(arguments.folder, arguments.in_turn).items()):
                print(f"{name}: {speedup:.2f}x")
        if arguments.report:
            report(arguments.folder)
    except SaintpruneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def report(folder: Path) -> None:
    """Write the table and the figure of a folder's records, beside them."""
    rows = read_rows(folder)
    print(f"table: {write_csv(rows, folder / 'results.csv')}")
    print(f"figure: {pareto_figure(rows, folder / 'pareto.png')}")


if __name__ == "__main__":
    sys.exit(main())
