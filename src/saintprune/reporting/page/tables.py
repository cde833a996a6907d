"""The tables of the page: runs, methods by budget, and where all of it comes from."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

from saintprune.markup import table, text
from saintprune.reporting.cells import accuracy_change, mean_tokens, percent, ratio, speedup
from saintprune.reporting.comparison_table import comparison_table
from saintprune.reporting.page.collect import Entry
from saintprune.reporting.results import Row


def runs(entries: Sequence[Entry], caption: str) -> str:
    """Return a row per run, the unpruned network first, then by agreement; below it, what is out of reach and why."""
    asked = any("ttft_seconds" in one.record.baseline for one in entries)
    head = ["run", "accuracy", "change (95 %)", "same answers", "FLOPs", "speed-up (95 %)", "tokens per layer, mean",
            "selecting"]  # fmt: skip
    head[6:6] = ["first token (95 %)", "further tokens (95 %)", "KV cache"] if asked else []
    measured = sorted(
        (one for one in entries if one.row.reason is None), key=lambda one: -(one.record.agreement or 0.0)
    )
    names = Counter(one.name for one in entries)
    rows = [_run(one, asked, several=names[one.name] > 1) for one in measured]
    rows = [_unpruned(measured[0], len(head)), *rows] if measured else []
    missed = [f"<li>{escape(one.name)}: {escape(one.row.reason)}</li>" for one in entries if one.row.reason]
    below = f"<h3>Out of reach</h3><ul>{''.join(missed)}</ul>" if missed else ""
    return (table(head, rows, caption) if rows else "") + below


def _unpruned(one: Entry, columns: int) -> list[str]:
    known = one.record.baseline
    cells = ["unpruned", percent(known.get("accuracy")), "", "", "1", "1"]
    cells += [""] * (columns - len(cells) - 2)
    return [*cells, mean_tokens(known.get("visual_tokens_per_layer") or known.get("tokens_per_layer")), ""]


def _run(one: Entry, asked: bool, several: bool) -> list[str]:
    record, delta = one.record, one.record.delta
    extra = [speedup(delta, "ttft_speedup"), speedup(delta, "decode_speedup"), ratio(delta, "kv_cache_ratio")]
    tokens = record.pruned.get("visual_tokens_per_layer") or record.pruned.get("tokens_per_layer")
    return [
        _named(one, several), percent(record.pruned.get("accuracy")), accuracy_change(delta), percent(record.agreement),
        ratio(delta), speedup(delta), *(extra if asked else []), mean_tokens(tokens),
        percent(record.selector_overhead, 2),
    ]  # fmt: skip


def _named(one: Entry, several: bool) -> str:
    """Return a run's name as HTML; with its file where others share the name, and with what was extrapolated."""
    notes = [one.path] if several else []
    if one.record.extrapolated:
        notes.append(f"extrapolated from {one.record.extrapolated.get('sampled_layers')} layers")
    return escape(one.name) + "".join(f'<br><span class="note">{escape(note)}</span>' for note in notes)


def budgets(entries: Sequence[Entry]) -> str:
    """Return methods by targets, a table per comparison; empty where nothing was calibrated to a target."""
    found: dict[str, list[Row]] = {}
    for one in entries:
        if one.row.target:
            found.setdefault(one.collection, []).append(one.row)
    return "\n".join(_budgets(rows, f"{name}: the best of a column is bold") for name, rows in found.items())


def _budgets(rows: Sequence[Row], caption: str) -> str:
    """Return the table that `comparison_table` writes as Markdown, as HTML."""
    lines, _, notes = comparison_table(rows).partition("\n\n")
    head, _, *body = [[_bold(cell) for cell in line.strip("| ").split(" | ")] for line in lines.splitlines()]
    body = [[*cells, *[""] * (len(head) - len(cells))] for cells in body]
    return table(head, body, caption) + "".join(f"<p>{escape(note)}</p>" for note in notes.split("\n\n") if note)


def _bold(cell: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escape(cell.strip()))


def provenance(entries: Sequence[Entry]) -> str:
    """Return what all runs share as one table, what they differ in as columns of another, and their configs."""
    facts = [_facts(one) for one in entries]
    shared = {name: value for name, value in facts[0].items() if all(other.get(name) == value for other in facts)}
    differing = [name for name in dict.fromkeys(key for fact in facts for key in fact) if name not in shared]
    rows = [[escape(one.path), *(escape(fact.get(name, "")) for name in differing)]
            for one, fact in zip(entries, facts, strict=True)]  # fmt: skip
    parts = [
        table(
            ("", ""), ([escape(name), escape(value)] for name, value in shared.items()), "What all runs share", "facts"
        )
    ]
    parts.append(table(("record", *map(escape, differing)), rows, "What each run was", "facts"))
    parts += [_config(one) for one in entries]
    return "\n".join(parts)


def _facts(one: Entry) -> dict[str, str]:
    record, hardware = one.record, one.record.hardware
    return {
        "made": record.created.partition("+")[0].replace("T", " "),
        "task": record.task,
        "samples": str(record.num_samples),
        "commit": (record.commit or "unknown")[:12]
        + ("+changes" if (record.commit or "").endswith("+changes") else ""),
        "device": text(hardware.get("device", "unknown")),
        "precision": text(hardware.get("precision", "unknown")),
        "batch size": text(hardware.get("batch_size", "unknown")),
        "seed": str(record.seed),
        "weights": text((record.sources.get("model") or {}).get("weights", "unknown")),
        "licence of the data": text(record.sources.get("dataset_licence", "unknown")),
        **{package: text(version) for package, version in record.versions.items()},
    }


def _config(one: Entry) -> str:
    """Return the command and the whole config of a run, folded away."""
    command = "" if one.overrides is None else f"<pre>python run.py {escape(shlex.join(one.overrides))}</pre>"
    content: Any = json.dumps(one.record.config, indent=1)
    return (
        f"<details><summary>{escape(one.name)}: command and config</summary>{command}"
        f'<pre tabindex="0">{escape(content)}</pre></details>'
    )
