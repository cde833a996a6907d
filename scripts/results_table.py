"""Write the tables of README and the docs from the records in docs/records: no figure stands there without its record.

python scripts/results_table.py            rewrite what stands between the markers
python scripts/results_table.py --check    exit with 1 if it differs
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from statistics import fmean

from saintprune.files import write_atomically
from saintprune.reporting.cells import accuracy_change, percent, ratio, speedup
from saintprune.reporting.comparison_table import (
    by_cell,
    comparison_table,
    over_seeds,
    selecting_table,
    speed_table,
    words,
)
from saintprune.reporting.paired import paired_table
from saintprune.reporting.records import RunRecord
from saintprune.reporting.results import Row, read_rows, target_of
from saintprune.reporting.tables import layers_line

OURS = "ward"
ROOT = Path(__file__).resolve().parents[1]
MARKED = re.compile(
    r"(<!-- results: (\S+)(?: by (share|selecting|speed|pairs)(?: of (\w+))?)? -->\n).*?(<!-- /results -->)", re.DOTALL
)
PLACES = {"vision": "tower", "projector": "before the decoder", "language": "decoder"}
HEADER = "| pruning | accuracy | change (95 %) | same answers | GFLOPs | speed-up (95 %) | tokens leaving each block |"


def table(folder: Path, by: str | None = None, of: str | None = None) -> str:
    """Return the Markdown table of the records in a folder, the unpruned network first, then by agreement.

    Records of prunings that were calibrated to targets (scripts/compare.py --targets) make a group of columns per
    target, or columns of what selecting costs (by "selecting") or of time alone (by "speed"); those of a
    vision-language model a group per share of tokens that goes (by "share"). By "pairs", both show how far one method,
    ours where none is named, is above each other one.
    """
    named = {path.name: RunRecord.read(path) for path in sorted(folder.glob("*.json"))}
    records = list(named.values())
    if not records:
        raise SystemExit(f"{folder} holds no record")
    measured = [record for record in records if record.num_samples] or records
    if by == "pairs":
        return f"{paired_table(folder, of or OURS)}\n\n{caption(measured)}\n"
    if any(target_of(record) for record in records):
        shown = {"selecting": selecting_table, "speed": speed_table}.get(by or "", comparison_table)(read_rows(folder))
        return f"{shown}\n\n{caption(measured)}\n"
    first = records[0]
    if by == "share":
        return shares_table(folder, named)
    if "ttft_seconds" in first.baseline:
        return questions_table(sorted(records, key=by_share_and_mode))
    records.sort(key=lambda record: (-(record.agreement or 0.0), record.pruning))
    first = records[0]
    unpruned = f"| unpruned | {percent(first.baseline['accuracy'])} | | | {first.baseline['gflops']:.1f} | 1 | "
    lines = [HEADER, "|---" * 7 + "|", unpruned + f"{layers_line(first.baseline['tokens_per_layer'])} |"]
    return "\n".join([*lines, *map(row, records)]) + f"\n\n{caption(records)}\n"


def row(record: RunRecord) -> str:
    """Return one line of the table of a network that looks at images."""
    delta = record.delta
    low, high = delta["speedup_ci95"]
    cells = [
        record.pruning.rpartition("/")[2].rpartition("_")[0] or record.pruning,
        percent(record.pruned["accuracy"]),
        accuracy_change(delta),
        percent(record.agreement),
        f"{record.pruned['gflops']:.1f}",
        f"{delta['speedup']:.2f} ({low:.1f} to {high:.1f})",
        layers_line(record.pruned["tokens_per_layer"]),
    ]
    return "| " + " | ".join(cells) + " |"


def by_share_and_mode(record: RunRecord) -> tuple[str, str, float]:
    """Return what the rows of a vision-language model are sorted by: "drop50/saint_vision" -> 50 %, vision, FLOPs."""
    folder, _, name = record.pruning.rpartition("/")
    return folder, name.rpartition("_")[2], record.pruned["gflops"] or 0.0


def questions_table(records: list[RunRecord]) -> str:
    """Return the Markdown table of a vision-language model's records; ratios are to the unpruned model in one run."""
    first = records[0]
    kinds = list(first.baseline["accuracy_by_kind"] or {})
    header = [
        "pruning", *kinds, "same answers", "image tokens, mean", "GFLOPs", "first token (95 %)",
        "further tokens (95 %)", "KV cache", "peak MiB",
    ]  # fmt: skip
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|", questions_row(first, "baseline", kinds)]
    return (
        "\n".join([*lines, *(questions_row(record, "pruned", kinds) for record in records)])
        + f"\n\n{caption(records)}\n"
    )


def shares_table(folder: Path, records: dict[str, RunRecord]) -> str:
    """Return the Markdown table with a row per method, by place and mean agreement, and a group of columns per share.

    A pruning is called "drop50/NAME" where half of the image tokens go.
    """
    shares, found = by_cell(read_rows(folder))
    places = {method: place(records[cell[0].record]) for (method, _), cell in found.items()}
    kept = dict.fromkeys(places, 0.0)
    for (method, _), cell in found.items():
        kept[method] += fmean(one.agreement or 0.0 for one in cell)
    heads = ("same answers", "GFLOPs", "first token")
    header = ["pruning", "where", *(f"{words(share)}: {head}" for share in shares for head in heads)]
    first = next(iter(records.values()))
    unpruned = f" | | {first.baseline['gflops']:.0f} | 1.00x" * len(shares)
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|", f"| unpruned | {unpruned} |"]
    for method in sorted(places, key=lambda method: (places[method], -kept[method])):
        cells = [share_cell(found.get((method, share), []), records) for share in shares]
        lines.append(f"| {method} | {places[method]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + f"\n\n{caption(list(records.values()))}\n"


def place(record: RunRecord) -> str:
    """Return where a pruning of a single stage takes tokens away."""
    (stage,) = record.config["pruning"]["stages"].values()
    return PLACES[stage["site"]]


def share_cell(cell: list[Row], records: dict[str, RunRecord]) -> str:
    """Return three cells of a method at one share: means over seeds, of the answers also the least and the most."""
    if not cell:
        return "- | - | -"
    seeds = [records[one.record] for one in cell]
    gflops, faster = fmean(one.pruned["gflops"] for one in seeds), fmean(one.delta["ttft_speedup"] for one in seeds)
    return f"{over_seeds(cell, 'agreement')} | {gflops:.0f} | {faster:.2f}x"


def questions_row(record: RunRecord, arm: str, kinds: list[str]) -> str:
    """Return one line of a vision-language model's table."""
    found, delta, unpruned = getattr(record, arm), record.delta, arm == "baseline"
    cells = [
        "unpruned" if unpruned else record.pruning,
        *(percent(found["accuracy_by_kind"][kind]) for kind in kinds),
        "" if unpruned else percent(record.agreement),
        f"{sum(found['visual_tokens_per_layer']) / len(found['visual_tokens_per_layer']):.0f}",
        f"{found['gflops']:.0f}",
        f"{1e3 * found['ttft_seconds']:.0f} ms" if unpruned else speedup(delta, "ttft_speedup"),
        f"{found['ms_per_token']:.0f} ms" if unpruned else speedup(delta, "decode_speedup"),
        f"{found['kv_cache_bytes'] / 2**20:.1f} MiB" if unpruned else ratio(delta, "kv_cache_ratio"),
        f"{found['peak_memory_mib']:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def caption(records: list[RunRecord]) -> str:
    """Return what all records of a table share."""
    first = records[0]
    what = "questions about test images" if "ttft_seconds" in first.baseline else "test images"
    timed = [record for record in records if record.out_of_reach is None]
    turns = [record.in_turn for record in timed if record.in_turn]
    devices = dict.fromkeys([turn["device"] for turn in turns] or [record.hardware["device"] for record in timed])
    words = [
        f"{first.model} on {first.dataset}, " + (f"{first.num_samples} {what}" if first.num_samples else "time alone"),
        f"{' and '.join(devices)}, {first.hardware['precision']}, batches of {first.hardware['batch_size']}",
        f"torch {first.versions['torch']}",
    ]
    if turns:
        words.append("all timed in turn" if len(turns) == len(timed) else f"{len(turns)} cells timed in turn")
    return "; ".join(words) + "."


def main() -> None:
    """Rewrite or check the pages."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        before = page.read_text(encoding="utf-8")
        after = MARKED.sub(
            lambda found: found[1] + table(ROOT / "docs" / "records" / found[2], found[3], found[4]) + found[5], before
        )
        if "--check" in sys.argv and after != before:
            raise SystemExit(f"{page.relative_to(ROOT)} differs from its records: python scripts/results_table.py")
        if after != before:
            write_atomically(page, after)


if __name__ == "__main__":
    main()
