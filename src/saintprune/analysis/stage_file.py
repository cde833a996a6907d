"""The file that keeps what the analysis of a model found, and from which a plan takes the blocks of a named stage.

    model: vit_s14
    dataset: elpv
    split: train
    record: outputs/…            # where the curves lie
    parts:
      vision:
        layers: 12
        images: 256
        three_stages: true
        verdict: three stages (aligner, explorer, aggregator) that begin at …
        boundaries: {aligner: [0, 3], explorer: [3, 8], aggregator: [8, 12]}   # first block, block after the last
        best_three: [[0, 3], [3, 8], [8, 12]]                                  # also where there are no three stages
        …

Only stages that were found, and that behave like their names, stand under `boundaries`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from saintprune.analysis.verdict import Verdict
from saintprune.errors import SaintpruneError, did_you_mean
from saintprune.files import write_atomically
from saintprune.plan import NAMED

TOLD = ("three_stages", "verdict", "best_three", "best_three_names", "cuts", "p_values", "scores")  # of raw cosines
HEAD = "# Written by task=analyze. `layers: aligner` in a plan reads `boundaries`, or else `best_three`.\n"


def stages_content(
    verdicts: Sequence[Verdict],
    raw: Sequence[Verdict] = (),
    *,
    model: str,
    dataset: str,
    split: str,
    record: str,
) -> dict[str, Any]:
    """Return the content of the file of one model.

    Args:
        verdicts: one per part of the model.
        raw: those by raw cosines, which are told but decide nothing.
        model: its name, that of its config.
        dataset: whose images decided.
        split: "train" or "test".
        record: where the curves and the record of the run lie.
    """
    parts = {verdict.part: _entry(verdict) for verdict in verdicts}
    for verdict in raw:
        known = _entry(verdict)
        parts[verdict.part]["by_raw_cosines"] = {name: known[name] for name in TOLD}
    return {"model": model, "dataset": dataset, "split": split, "record": record, "parts": parts}


def _entry(verdict: Verdict) -> dict[str, Any]:
    named = [(name, list(span)) for name, span in zip(verdict.names, verdict.spans, strict=False) if name]
    return {
        "layers": verdict.layers,
        "images": verdict.images,
        "three_stages": verdict.three_stages,
        "verdict": verdict.reason,
        "segments": verdict.segments,
        "boundaries": dict(named) if verdict.three_stages else {},
        "best_three": [list(span) for span in verdict.spans],
        "best_three_names": [name or "unnamed" for name in verdict.names] if verdict.spans else [],
        "cuts": {len(cut) + 1: list(cut) for cut in verdict.cuts},
        "intervals": [list(pair) for pair in verdict.intervals or ()],
        "layer_intervals": [list(pair) for pair in verdict.layer_intervals or ()],
        "stability": [round(share, 3) for share in verdict.stability or ()],
        "p_values": {name: round(p, 4) for name, p in verdict.p_values.items()},
        "scores": {name: round(score, 1) for name, score in verdict.scores.items()},
        "metrics": list(verdict.metrics),
    }


def write_stages(path: Path, content: Mapping[str, Any]) -> Path:
    """Write the file, whole or not at all."""
    text = yaml.safe_dump(dict(content), sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)
    return write_atomically(path, HEAD + text)


def read_stages(path: Path) -> dict[str, Any]:
    """Read such a file.

    Raises:
        SaintpruneError: there is none, or it holds something else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SaintpruneError(f"{path} is missing: run task=analyze for this model, or name blocks") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SaintpruneError(f"{path} cannot be read ({str(error).splitlines()[0]}): run task=analyze anew") from error
    if not isinstance(content, dict) or not isinstance(content.get("parts"), dict):
        raise SaintpruneError(f"{path} holds no `parts`: run task=analyze anew")
    return content


@dataclass(frozen=True)
class Located:
    """Where a named stage lies.

    Attributes:
        blocks: 0-based numbers.
        note: what the analysis does not vouch for; None where it found this stage.
    """

    blocks: tuple[int, ...]
    note: str | None = None


def locate(content: Mapping[str, Any], name: str, site: str = "vision") -> Located:
    """Return the blocks of a named stage.

    Where the analysis found three stages, the name is that of a segment that behaves so. Where it found none, or none
    that behaves so, the name counts the best three segments (first, second, third), and the note says it.

    Args:
        content: of the file, see `read_stages`.
        name: aligner, explorer or aggregator.
        site: "vision", or "language", where the image tokens among themselves decide.

    Raises:
        SaintpruneError: no such name, or the analysis says nothing about this site.
    """
    if name not in NAMED:
        raise SaintpruneError(f"{name!r} is no stage{did_you_mean(name, NAMED)}: use {', '.join(NAMED)}")
    parts, model = content["parts"], content.get("model", "this model")
    part = next((found for found in (site, f"{site}/vision-vision") if found in parts), None)
    if part is None:
        raise SaintpruneError(f"the analysis of {model} knows {', '.join(parts) or 'nothing'}, but not {site}")
    entry = parts[part]
    span = entry["boundaries"].get(name)
    if span is not None:
        return Located(tuple(range(*span)))
    if not entry["best_three"]:
        raise SaintpruneError(
            f"layers={name}: the analysis of {model} ({part}) found {entry['verdict']}; name blocks instead"
        )
    place = NAMED.index(name)
    first, end = entry["best_three"][place]
    found = f"no stage that behaves like an {name}" if entry["three_stages"] else "no three stages"
    return Located(
        tuple(range(first, end)),
        f"layers={name} takes blocks {first} to {end - 1}, number {place + 1} of the best three segments of {model}"
        f" ({part}), but the analysis found {found} there (conf/stages has its reasons)",
    )
