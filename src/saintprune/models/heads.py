"""Linear heads on frozen features: read, write, and install one as a net's classifier."""

from __future__ import annotations

import json
import shlex
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as as_safetensors
from torch import Tensor, nn

from saintprune.errors import SaintpruneError
from saintprune.files import write_atomically
from saintprune.models.checkpoint import file_sha256
from saintprune.models.loaded import LoadedModel

COMMITTED = Path(__file__).resolve().parent.parent / "assets" / "heads"
HELD_OUT = "held_out"  # folder of heads that were not fitted on the first training images, and how configs call them


@dataclass(frozen=True)
class Head:
    """A linear classifier and what it was fitted on.

    Attributes:
        weight: (classes, D) float32.
        bias: (classes,) float32.
        classes: Names of the logits.
        model: Name of the model in the configs.
        dataset: Name of the dataset.
        features_sha256: Digest of the weights that made the features.
        global_pool: timm's pooling of the features.
    """

    weight: Tensor
    bias: Tensor
    classes: tuple[str, ...]
    model: str
    dataset: str
    features_sha256: str
    global_pool: str


def attach(
    loaded: LoadedModel,
    head: str,
    *,
    model: str,
    dataset: str,
    classes: tuple[str, ...] | None,
    fit: str | None = None,
) -> LoadedModel:
    """Give the net a classifier for the dataset's labels where it needs one; changes ``loaded.net`` in place.

    Args:
        loaded: The model.
        head: ``auto`` (the committed head, unless the net has a classifier for as many labels), ``none`` (leave the net
            as it is, whatever its classes: see `answers`), or a file written by `save`.
        model: The model's name in the configs.
        dataset: The dataset's name.
        classes: The dataset's labels; None (unlabelled) leaves the net as it is.
        fit: The command of `fit_command`, for messages; None is that without overrides.

    Raises:
        SaintpruneError: If there is no such head, it was fitted on other features, or the labels differ.

    Warns:
        UserWarning: The head's record says that it was fitted on images of another size.
    """
    if classes is None or head == "none" or (head == "auto" and loaded.num_classes == len(classes)):
        return loaded
    fit = fit or _fit_command(model, dataset)
    way_out = f"leave accuracy out with model.head=none or dataset=synthetic, or fit one: {fit}"
    path = COMMITTED / f"{model}-{dataset}.safetensors" if head == "auto" else Path(head)
    if not path.is_file():
        missing = f"there is no file {head}"
        if head == "auto":
            has = f"tells {loaded.num_classes} classes apart" if loaded.num_classes else "has no classifier"
            missing = f"{model} {has}, and none was fitted for the {len(classes)} of dataset {dataset}"
        raise SaintpruneError(f"model.head={head}: {missing}; {way_out}")
    fitted = read(path)
    _check(fitted, path, loaded, dataset, classes, way_out)
    _warn_of_size(path, loaded, model, dataset, fit)
    install(loaded.net, fitted)
    record = {"file": path.name, "sha256": file_sha256(str(path)), "dataset": fitted.dataset}
    source = {**loaded.source, "head": record}
    return replace(loaded, num_classes=len(classes), classes=fitted.classes, source=source)


@contextmanager
def exchanged(loaded: LoadedModel, head: str, *, model: str, dataset: str, fit: str | None = None) -> Iterator[None]:
    """Give the net another linear head for as long as the `with` block lasts.

    A head is surer of the images that it was fitted on than of others. Where that decides what a pruning costs or how
    many answers it keeps, calibrate with a head that has not seen the images of the calibration.

    Args:
        loaded: the model, with a linear head for the dataset.
        head: ``held_out`` (the committed head that was not fitted on the first training images), or a file written by
            `save`.
        model: the model's name in the configs.
        dataset: the dataset's name.
        fit: the command of `fit_command`; None is that without overrides.

    Raises:
        SaintpruneError: If there is no such head, it is for another model or other classes, or the net has no linear
            head in whose place it could stand.
    """
    path = COMMITTED / HELD_OUT / f"{model}-{dataset}.safetensors" if head == HELD_OUT else Path(head)
    way_out = f"fit one: {fit or _fit_command(model, dataset)} --held-out 256"
    if not path.is_file():
        raise SaintpruneError(f"calibration.head={head}: there is no file {path}; {way_out}")
    linear, fitted = getattr(loaded.net, "head", None), read(path)
    if not isinstance(linear, nn.Linear) or loaded.classes is None:
        raise SaintpruneError(f"calibration.head={head} stands in for a linear head, which this network lacks")
    _check(fitted, path, loaded, dataset, tuple(loaded.classes), way_out)
    before = {name: value.clone() for name, value in linear.state_dict().items()}
    try:
        linear.load_state_dict({"weight": fitted.weight, "bias": fitted.bias})
        yield
    finally:
        linear.load_state_dict(before)


def answers(loaded: LoadedModel, classes: tuple[str, ...] | None) -> bool:
    """Return whether the net's logits can be scored against these labels."""
    return classes is not None and loaded.num_classes == len(classes)


def install(net: Any, head: Head) -> None:
    """Put the head where timm keeps a classifier, so that ``net(images)`` gives its logits.

    A distilled net averages two classifiers; as both are linear, the same head in both places classifies the mean
    of the two features.
    """
    linear = nn.Linear(head.weight.shape[1], head.weight.shape[0])
    linear.load_state_dict({"weight": head.weight, "bias": head.bias})
    linear = linear.eval().requires_grad_(False)
    net.head = linear
    if hasattr(net, "head_dist"):
        net.head_dist = linear
    net.num_classes = len(head.classes)


def read(path: Path) -> Head:
    """Return the head in a file written by `save`.

    Raises:
        SaintpruneError: If the file is something else.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
        return Head(
            weight=weight,
            bias=bias,
            classes=tuple(json.loads(metadata["classes"])),
            **{key: metadata[key] for key in ("model", "dataset", "features_sha256", "global_pool")},
        )
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise SaintpruneError(f"model.head: {path} is not a head written by scripts/fit_probe.py ({error})") from error


def save(head: Head, path: Path, record: Mapping[str, Any]) -> None:
    """Write the head as safetensors, and `record` as JSON beside it, each whole or not at all.

    Raises:
        SaintpruneError: One of them could not be written.
    """
    metadata = {key: getattr(head, key) for key in ("model", "dataset", "features_sha256", "global_pool")}
    tensors = {"weight": head.weight.float().contiguous(), "bias": head.bias.float().contiguous()}
    write_atomically(path, as_safetensors(tensors, {**metadata, "classes": json.dumps(head.classes)}))
    write_atomically(path.with_suffix(".json"), json.dumps(record, indent=2) + "\n")


def fit_command(cfg: Any, dataset: str) -> str:
    """Return the command that fits a head for a run's model and data.

    Args:
        cfg: The run's config.
        dataset: The file in conf/dataset that it chose; ``dataset.name`` may be another.
    """
    node, name = cfg.dataset, cfg.dataset.get("name")
    given = {"model.checkpoint": cfg.model.get("checkpoint"), "dataset.name": None if name == dataset else name}
    given |= {f"dataset.{key}": node.get(key) for key in ("root", "path")}
    if "train_path" in node:  # which only few runs need
        given["dataset.train_path"] = node.train_path or "DIR"
    overrides = [f"{key}={value}" for key, value in given.items() if value is not None]
    return _fit_command(cfg.model.name, dataset, *overrides)


def without_classifier(net: Any) -> None:
    """Turn a timm net into one that gives its pooled features."""
    net.reset_classifier(0)
    net.num_classes = 0


def _check(head: Head, path: Path, loaded: LoadedModel, dataset: str, classes: tuple[str, ...], way_out: str) -> None:
    if head.classes != classes:
        raise SaintpruneError(
            f"model.head {path} tells {', '.join(head.classes)} apart, but dataset {dataset} has "
            f"{', '.join(classes[:5])}{' ...' if len(classes) > 5 else ''}; {way_out}"
        )
    width = int(loaded.net.num_features)  # pyright: ignore[reportArgumentType]  # timm sets it on every net
    if head.weight.shape != (len(classes), width):
        raise SaintpruneError(
            f"model.head {path} takes {head.weight.shape[1]} features, but {loaded.architecture} has {width}; {way_out}"
        )
    if head.features_sha256 != loaded.weights_sha256 or head.global_pool != str(loaded.source.get("global_pool")):
        raise SaintpruneError(
            f"model.head {path} was fitted on other features: weights {head.features_sha256[:12]} with pooling "
            f"{head.global_pool}, but {loaded.architecture} has weights {str(loaded.weights_sha256 or 'random')[:12]} "
            f"with pooling {loaded.source.get('global_pool')}; {way_out}"
        )


def _warn_of_size(path: Path, loaded: LoadedModel, model: str, dataset: str, fit: str) -> None:
    """Warn where the record beside a head says that its features came from images of another size."""
    try:
        fitted = tuple(json.loads(path.with_suffix(".json").read_text())["features"]["input_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # a head without its record
    if fitted != tuple(loaded.input_size):
        size = loaded.input_size[-1]
        warnings.warn(
            f"model.head {path.name} was fitted on images of {fitted[-1]} px, but the model takes {size} px, so its"
            f" answers are worth little. Fit one: {fit} --out FOLDER model.net.img_size={size}; then"
            f" model.head=FOLDER/{model}-{dataset}.safetensors",
            stacklevel=3,
        )


def _fit_command(model: str, dataset: str, *overrides: str) -> str:
    return shlex.join(["python", "scripts/fit_probe.py", "--model", str(model), "--dataset", dataset, *overrides])
