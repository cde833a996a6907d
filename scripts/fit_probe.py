"""Fit a linear head on the frozen, unpruned features of a dataset's training split.

    python scripts/fit_probe.py --model vit_s14 --dataset elpv
    python scripts/fit_probe.py --model vit_s14 --dataset imagefolder dataset.path=DIR/val dataset.train_path=DIR/train
    python scripts/fit_probe.py --model vit_s14 --dataset elpv --out heads --images 384 model.net.img_size=518
    python scripts/fit_probe.py --model vit_s14 --dataset elpv --held-out 256      for calibration.head=held_out

The strength of the L2 penalty is chosen by cross-validation on the training split; the test split is scored once,
at the end. Extra KEY=VALUE arguments are overrides as for run.py; the features are float32 unless
``hardware.precision`` is among them. The head is named by the model and by ``dataset.name``, and found by them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from saintprune.errors import SaintpruneError
from saintprune.models import heads, probe
from saintprune.parts import Parts
from saintprune.reporting.records import package_versions, source_commit
from saintprune.study_script import open_images
from saintprune.wiring import what_was_run


def main() -> int:
    """Fit, score and save one head; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore[reportOptionalMemberAccess]
    parser.add_argument("--model", required=True, help="a file in conf/model, such as vit_s14")
    parser.add_argument("--dataset", required=True, help="a file in conf/dataset, such as elpv")
    parser.add_argument("--out", type=Path, default=heads.COMMITTED, help="folder of the head and its record")
    parser.add_argument("--images", type=int, help="fit on so many training images at least, in whole batches")
    parser.add_argument(
        "--held-out", type=int, default=0, metavar="N", help="leave out the first N training images, to calibrate on"
    )
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE, such as dataset.path=FOLDER")
    arguments = parser.parse_intermixed_args()
    try:
        parts = featurizer(arguments.model, arguments.dataset, arguments.overrides)
        out = arguments.out / heads.HELD_OUT if arguments.held_out else arguments.out
        fit_probe(parts, out, arguments.images, arguments.held_out)
    except SaintpruneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def featurizer(model: str, dataset: str, overrides: list[str]) -> Parts:
    """Return the parts of a run whose network gives its pooled features.

    Args:
        model: a file in conf/model.
        dataset: a file in conf/dataset.
        overrides: KEY=VALUE.

    Raises:
        SaintpruneError: the weights are not identified, or the dataset has no labels.
    """
    chosen = [f"model={model}", f"dataset={dataset}", "pruning=none", "hardware.precision=32-true"]
    parts = open_images(*chosen, *overrides, "model.head=none")
    if parts.model.weights_sha256 is None or parts.data.classes is None:
        raise SaintpruneError(f"a head needs identified weights and labels; {model} on {dataset} lacks one of them")
    heads.without_classifier(parts.model.net)
    return parts


def fit_probe(parts: Parts, out: Path, images: int | None = None, held_out: int = 0) -> None:
    """Fit the head of a network for its dataset, and write it and its record.

    Args:
        parts: of `featurizer`.
        out: folder of the head and its record.
        images: of the training split to look at; None is all.
        held_out: how many of them, from the first on, not to fit on.
    """
    pooled, labels = features(parts, parts.data.train_dataloader(), images)
    train = pooled[held_out:], labels[held_out:]
    if not len(train[1]):
        raise SaintpruneError(f"--held-out {held_out} leaves no training image to fit on")
    l2, scores = probe.choose_l2(*train)
    fitted = probe.fit(*train, l2)
    head = head_of(parts, fitted)
    test = features(parts, parts.data.test_dataloader())
    found = {
        "cv_accuracy": scores[l2],
        "train_accuracy": fitted.accuracy(*train),
        "test_accuracy": probe.Probe(head.weight.double(), head.bias.double()).accuracy(*test),
        "l2": l2,
        "cv_accuracy_by_l2": {f"{key:.3g}": value for key, value in scores.items()},
        "cv_folds": probe.FOLDS,
        "num_train": len(train[1]),
        "held_out": held_out,
        "num_test": len(test[1]),
    }
    path = out / f"{head.model}-{head.dataset}.safetensors"
    heads.save(head, path, record_of(parts, head, found))
    print(
        f"wrote {path}: L2 {l2:.3g}, accuracy {found['cv_accuracy']:.4f} cross-validated,"
        f" {found['train_accuracy']:.4f} train, {found['test_accuracy']:.4f} test"
    )


@torch.no_grad()  # not inference_mode: the fit differentiates through these features
def features(parts: Parts, loader: Any, images: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the pooled features (N, D) and labels (N,) of all batches, or of the first that hold `images`."""
    collected = []
    for pictures, labels in track(loader, "features", transient=True):
        pooled = parts.model.net(pictures.to(parts.device, parts.hardware.dtype))
        collected.append((pooled.float().cpu(), labels))
        if images is not None and sum(len(seen) for _, seen in collected) >= images:
            break
    return torch.cat([feature for feature, _ in collected]), torch.cat([label for _, label in collected])


def head_of(parts: Parts, fitted: probe.Probe) -> heads.Head:
    """Return the head to write, with the names by which runs find it."""
    return heads.Head(
        weight=fitted.weight.float(),
        bias=fitted.bias.float(),
        classes=parts.data.classes,
        model=parts.cfg.model.name,
        dataset=parts.data.name,
        features_sha256=parts.model.weights_sha256,
        global_pool=str(parts.model.source["global_pool"]),
    )


def record_of(parts: Parts, head: heads.Head, found: dict[str, Any]) -> dict[str, Any]:
    """Return what the record says of a head and of what it was fitted on."""
    run = what_was_run(parts)
    return {
        "model": head.model,
        "dataset": head.dataset,
        "classes": list(head.classes),
        **found,
        "seeds": "none: the split, the folds and the fit draw no random numbers",
        "features": dict(parts.model.source),
        "hardware": run["hardware"],
        "config": run["config"],
        "versions": package_versions(),
        "commit": source_commit(),
        "licence": f"derived from the images of {head.dataset} ({parts.data.licence}); the head falls under the same"
        " terms",
    }


if __name__ == "__main__":
    sys.exit(main())
