"""Fit the projector of the packaged vision-language model on ELPV's training split.

    python scripts/train_projector.py                 fit on 7 of 8 training images, score the 8th: for choices
    python scripts/train_projector.py --test          the same, and score the test split once, at the end

Tower and language model stay as they are. How: `saintprune.models.vlm_projector`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from safetensors.torch import save as as_safetensors
from torch import Tensor

from saintprune.data.elpv import PACKAGE, Cell, Elpv
from saintprune.data.elpv_vqa import QUESTIONS, answer, split_cells
from saintprune.data.images import read_rgb
from saintprune.errors import SaintpruneError
from saintprune.files import write_atomically
from saintprune.models import vlm_packaged
from saintprune.models.checkpoint import file_sha256
from saintprune.models.vlm_projector import BATCH, FitSettings, Projector, fit, score
from saintprune.models.vlm_reader import Examples, Reader
from saintprune.reporting.records import package_versions, source_commit

SHARES = (1.0, 0.5, 0.25, 0.125)  # of the visual tokens, at which a projector is scored


def main() -> int:
    """Fit, score and save; return the exit code."""
    default = FitSettings()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore[reportOptionalMemberAccess]
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument("--images", type=int, default=default.images, help="per step, each with both questions")
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate)
    parser.add_argument("--weight-decay", type=float, default=default.weight_decay)
    parser.add_argument("--keep", type=float, nargs=2, default=default.keep, help="range of the share of visual tokens")
    parser.add_argument("--full", type=int, default=default.full, help="every n-th step keeps all visual tokens")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--hold-out", type=int, default=8, help="fit without every n-th training image, and score it")
    parser.add_argument("--test", action="store_true", help="score the test split too")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of torch")
    parser.add_argument("--out", type=Path, default=vlm_packaged.PROJECTOR, help="file; its record goes beside it")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    try:
        train(arguments)
    except SaintpruneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def train(arguments: argparse.Namespace) -> None:
    """Fit a projector, score it, and write it with its record."""
    keys = ("steps", "images", "learning_rate", "weight_decay", "full", "seed")
    settings = FitSettings(keep=tuple(arguments.keep), **{key: getattr(arguments, key) for key in keys})
    root = PACKAGE.checked()
    net, processor = vlm_packaged.assemble(vlm_packaged.blank_projector())
    cells = split_cells(root, test=False)
    examples = look(net, processor, root, cells)
    test = look(net, processor, root, split_cells(root, test=True)) if arguments.test else None
    rows = torch.arange(len(cells))
    held_out = rows % arguments.hold_out == 0
    reader = Reader(net, processor, QUESTIONS, torch.bfloat16)
    began = time.monotonic()
    projector = fit(reader, examples.at(rows[~held_out]), settings, lambda line: print(line, flush=True))
    seconds = round(time.monotonic() - began)
    scores = {"held_out": score_at_all_shares(reader, projector, examples.at(rows[held_out]))}
    print(f"held out: {scores['held_out']}", flush=True)
    if test is not None:
        scores["test"] = score_at_all_shares(reader, projector, test)
    record = {
        "model": vlm_packaged.NAME,
        "dataset": "elpv_vqa",
        "fitted_on": f"{int((~held_out).sum())} images of the training split, two questions each",
        "held_out": f"the other {int(held_out.sum())} images of the training split",
        "exact_match_by_share_of_visual_tokens": scores,
        "score": "greedy answers in bfloat16; the visual tokens that stay are drawn at random",
        "settings": {**asdict(settings), "hold_out": arguments.hold_out},
        "feature_layer": vlm_packaged.FEATURE_LAYER,
        "tower_sha256": vlm_packaged.TOWER.sha256,
        "language_sha256": vlm_packaged.LANGUAGE.sha256,
        "seconds_of_fit": seconds,
        "threads": torch.get_num_threads(),
        "versions": package_versions(),
        "commit": source_commit(),
        "licence": f"{Elpv.licence}: fitted on the images of ELPV",
    }
    save(projector.folded(), record, arguments.out)
    print(f"wrote {arguments.out}: exact match {scores}, {seconds} s")


@torch.no_grad()
def look(net: Any, processor: Any, root: Path, cells: list[Cell]) -> Examples:
    """Run the tower once over the images of these cells."""
    layer, tower, features = net.config.vision_feature_layer, net.model.vision_tower, []
    for start in track(range(0, len(cells), BATCH), "features"):
        pictures = [read_rgb(root / cell.name) for cell in cells[start : start + BATCH]]
        pixels = processor.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
        features.append(tower(pixels, output_hidden_states=True).hidden_states[layer][:, 1:].half())
    tokenizer, answers = processor.tokenizer, {}
    for kind in QUESTIONS:
        ids = tokenizer([answer(cell, kind) + tokenizer.eos_token for cell in cells])["input_ids"]
        answers[kind] = torch.tensor(ids)  # of one length: both answers of a kind have as many tokens
    return Examples(torch.cat(features), answers)


def score_at_all_shares(reader: Reader, projector: Projector, examples: Examples) -> dict[str, dict[str, float]]:
    """Return `score` by share of the visual tokens."""
    return {f"{share:g}": score(reader, projector, examples, share) for share in track(SHARES, "scores")}


def save(state: dict[str, Tensor], record: dict[str, Any], path: Path) -> None:
    """Write the projector as safetensors, and its record as JSON beside it, each whole or not at all."""
    about = {"licence": Elpv.licence, "feature_layer": str(record["feature_layer"])}
    write_atomically(path, as_safetensors(state, about))
    described = {**record, "sha256": file_sha256(str(path))}
    write_atomically(path.with_suffix(".json"), json.dumps(described, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
