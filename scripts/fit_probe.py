"""Fit a linear head on the frozen, unpruned features of a dataset's training split.

    python scripts/fit_probe.py --model vit_s14 --dataset elpv
    python scripts/fit_probe.py --model vit_s14 --dataset elpv --out heads --images 384 model.net.img_size=518
    python scripts/fit_probe.py --model vit_s14 --dataset elpv --held-out 256      for calibration.head=held_out

The strength of the L2 penalty is chosen by cross-validation on the training split; the test split is scored once,
at the end. Extra KEY=VALUE arguments override the configs, such as ``dataset.path=FOLDER``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.progress import track
from torch import Tensor

from saintprune.binding import make
from saintprune.config import config_dir
from saintprune.data.base import ImageData
from saintprune.errors import SaintpruneError
from saintprune.models import heads, probe
from saintprune.models.loaded import LoadedModel
from saintprune.reporting.records import package_versions, source_commit

CONF = config_dir()


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
    arguments = parser.parse_args()
    try:
        out = arguments.out / heads.HELD_OUT if arguments.held_out else arguments.out
        fit_probe(arguments.model, arguments.dataset, out, arguments.overrides, arguments.images, arguments.held_out)
    except SaintpruneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def fit_probe(
    model: str, dataset: str, out: Path, overrides: list[str], images: int | None = None, held_out: int = 0
) -> None:
    """Fit the head of `model` for `dataset` and write it to `out`.

    Args:
        model: a file in conf/model.
        dataset: a file in conf/dataset.
        out: folder of the head and its record.
        overrides: KEY=VALUE.
        images: of the training split to look at; None is all.
        held_out: how many of them, from the first on, not to fit on.
    """
    loaded, data = load(model, dataset, overrides)
    if loaded.weights_sha256 is None or data.classes is None:
        raise SaintpruneError(f"a head needs identified weights and labels; {model} on {dataset} lacks one of them")
    heads.without_classifier(loaded.net)
    pooled, labels = features(loaded, data.train_dataloader(), images)
    train = pooled[held_out:], labels[held_out:]
    if not len(train[1]):
        raise SaintpruneError(f"--held-out {held_out} leaves no training image to fit on")
    l2, scores = probe.choose_l2(*train)
    fitted = probe.fit(*train, l2)
    head = heads.Head(
        weight=fitted.weight.float(),
        bias=fitted.bias.float(),
        classes=data.classes,
        model=model,
        dataset=dataset,
        features_sha256=loaded.weights_sha256,
        global_pool=str(loaded.source["global_pool"]),
    )
    test = features(loaded, data.test_dataloader())
    record = {
        "model": model,
        "dataset": dataset,
        "classes": list(data.classes),
        "cv_accuracy": scores[l2],
        "train_accuracy": fitted.accuracy(*train),
        "test_accuracy": probe.Probe(head.weight.double(), head.bias.double()).accuracy(*test),
        "l2": l2,
        "cv_accuracy_by_l2": {f"{key:.3g}": value for key, value in scores.items()},
        "cv_folds": probe.FOLDS,
        "num_train": len(train[1]),
        "held_out": held_out,
        "num_test": len(test[1]),
        "seeds": "none: the split, the folds and the fit draw no random numbers",
        "features": dict(loaded.source),
        "versions": package_versions(),
        "commit": source_commit(),
        "licence": f"derived from the images of {dataset} ({data.licence}); the head falls under the same terms",
    }
    heads.save(head, out / f"{model}-{dataset}.safetensors", record)
    print(
        f"wrote {out / f'{model}-{dataset}.safetensors'}: L2 {l2:.3g}, accuracy {record['cv_accuracy']:.4f} "
        f"cross-validated, {record['train_accuracy']:.4f} train, {record['test_accuracy']:.4f} test"
    )


def load(model: str, dataset: str, overrides: list[str]) -> tuple[LoadedModel, ImageData]:
    """Return model and data as their config files say."""
    for kind, name in (("model", model), ("dataset", dataset)):
        if not (CONF / kind / f"{name}.yaml").is_file():
            known = ", ".join(sorted(path.stem for path in (CONF / kind).glob("*.yaml")))
            raise SaintpruneError(f"there is no conf/{kind}/{name}.yaml; there are: {known}")
    config: Any = OmegaConf.create(
        {
            "model": OmegaConf.load(CONF / f"model/{model}.yaml"),
            "dataset": OmegaConf.load(CONF / f"dataset/{dataset}.yaml"),
        }
    )
    config.merge_with_dotlist(overrides)
    loaded = make(config, "model.net")
    data = make(config, "dataset", transform=loaded.transform, input_size=loaded.input_size, batch_size=32)
    data.setup("fit")
    return loaded, data


@torch.no_grad()  # not inference_mode: the fit differentiates through these features
def features(loaded: LoadedModel, loader: Any, images: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the pooled features (N, D) and labels (N,) of all batches, or of the first that hold `images`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net, collected = loaded.net.to(device), []
    for pictures, labels in track(loader, "features", transient=True):
        collected.append((net(pictures.to(device)).float().cpu(), labels))
        if images is not None and sum(len(seen) for _, seen in collected) >= images:
            break
    return torch.cat([feature for feature, _ in collected]), torch.cat([label for _, label in collected])


if __name__ == "__main__":
    sys.exit(main())
