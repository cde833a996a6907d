"""Load a timm network: `load` picks the source of the weights and returns a `LoadedModel`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, cast

import timm
import torch
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from saintprune.errors import SaintpruneError, did_you_mean
from saintprune.models import checkpoint as files
from saintprune.models import hub, packaged
from saintprune.models.loaded import LoadedModel


def load(
    architecture: str,
    *,
    pretrained: bool = True,
    checkpoint: str | None = None,
    weights: str = "hub",
    num_classes: int | None = None,
    img_size: int | None = None,
    global_pool: str | None = None,
    crop_pct: float | None = None,
    seed: int = 0,
) -> LoadedModel:
    """Return a timm network in eval mode, frozen, with its own transform.

    Args:
        architecture: A timm name, with or without a pretrained tag.
        pretrained: False gives random weights, drawn from `seed` without touching torch's global random state.
        checkpoint: A local ``.safetensors``, ``.pth`` or ``.pt`` file; wins over `weights`.
        weights: ``hub``, ``packaged:NAME`` (see `saintprune.models.packaged`), or ``local:FILE`` for weights that
            exist only as an official file which `checkpoint` must name.
        num_classes: Width of the classifier, 0 for features; None takes the checkpoint's, else timm's own.
        img_size: Side of the input in pixels; None keeps timm's. Position embeddings are resampled to it.
        global_pool: timm's pooling (``token``, ``avg``, ...); None keeps timm's.
        crop_pct: Share of the resized image that the centre crop keeps; None keeps timm's.
        seed: Seed of random weights.

    Raises:
        SaintpruneError: For an unknown name, weights that are not there, or weights that do not fit.
    """
    _check_request(architecture, pretrained, checkpoint, weights)
    options: dict[str, Any] = {"num_classes": num_classes, "img_size": img_size, "global_pool": global_pool}
    options = {name: value for name, value in options.items() if value is not None}
    if not pretrained:
        net, source = _create(architecture, seed, **options), {"weights": "random", "seed": seed}
    elif checkpoint is not None:
        net, source = _from_checkpoint(architecture, str(checkpoint), options)
    elif weights == "hub":
        net, source = _from_hub(architecture, options)
    else:
        net, source = _from_packaged(architecture, weights, options)
    return _finish(net, architecture, source, crop_pct)


def _check_request(architecture: str, pretrained: bool, checkpoint: str | None, weights: str) -> None:
    known = timm.list_models() + timm.list_pretrained()  # names, and names with a tag
    if architecture not in known:
        raise SaintpruneError(
            f"model.net.architecture: timm {timm.__version__} has no model {architecture!r}"
            f"{did_you_mean(architecture, known)}"
        )
    kind, _, name = weights.partition(":")
    if weights != "hub" and (kind not in ("packaged", "local") or not name):
        raise SaintpruneError(f"model.net.weights is {weights!r}; give hub, packaged:NAME or local:FILE")
    if checkpoint is not None and not pretrained:
        raise SaintpruneError(
            "model.pretrained=false asks for random weights, but model.checkpoint names a file; leave out one of them"
        )
    if pretrained and checkpoint is None and kind == "local":
        raise SaintpruneError(
            f"{architecture} with a classifier exists only as a local file: "
            f"model.checkpoint=/path/to/{name} (or model.pretrained=false for random weights)"
        )


def _create(architecture: str, seed: int = 0, **options: Any) -> nn.Module:
    """Return the architecture with seeded random weights; torch's global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
        try:
            return timm.create_model(architecture, **options)
        except (TypeError, AssertionError, ValueError) as error:
            given = ", ".join(f"{name}={value}" for name, value in options.items())
            raise SaintpruneError(f"timm cannot build {architecture} with {given}: {error}") from error


def _from_checkpoint(architecture: str, path: str, options: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    state = files.read_state_dict(path)
    if "num_classes" not in options and "head.weight" in state:
        options = {**options, "num_classes": len(state["head.weight"])}
    net = _create(architecture, **options)
    files.load_strict(net, state, _checkpoint_filter(net), f"model.checkpoint {path}", architecture)
    return net, {"weights": "checkpoint", "file": path, "sha256": files.file_sha256(path)}


def _from_packaged(architecture: str, weights: str, options: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    name = weights.removeprefix("packaged:")
    entry = packaged.packaged_weights(name)
    if architecture.split(".")[0] != entry.architecture:
        raise SaintpruneError(f"model.net.weights={weights} fits {entry.architecture}, not {architecture}")
    net = _create(architecture, **options)
    # the exported graph resizes its position grid by bicubic interpolation without antialiasing
    resample = functools.partial(_checkpoint_filter(net), antialias=False)
    files.load_strict(net, packaged.load_packaged(name), resample, f"model.net.weights={weights}", architecture)
    return net, {"weights": weights, "sha256": entry.sha256, "licence": entry.licence}


def _from_hub(architecture: str, options: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    published = timm.get_pretrained_cfg(architecture)
    classes = options.get("num_classes")
    if published is not None and classes not in (None, 0, published.num_classes):
        raise SaintpruneError(
            f"{architecture}: the published weights have {published.num_classes or 'no'} classes, not {classes}; "
            f"give model.checkpoint=FILE with a classifier of {classes}, or model.net.num_classes=0 for features"
        )
    found = hub.fetch(architecture, published)
    overlay = {"file": found.path, "custom_load": False, "source": ""}
    with torch.random.fork_rng(devices=[]):
        net = timm.create_model(architecture, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    source = {"weights": "hub", "hub_id": found.repo, "revision": found.revision, "sha256": found.sha256}
    return net, {**source, "licence": getattr(published, "license", None)}


def _checkpoint_filter(net: nn.Module) -> Callable[..., dict[str, Tensor]]:
    """Return timm's own checkpoint filter for this class (it renames keys and resamples position embeddings)."""
    found = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if found is None:
        raise SaintpruneError(f"saintprune cannot load local weights into timm's {type(net).__name__} (not a ViT)")
    deit_scales = "adapt_layer_scale" in found.__code__.co_varnames  # DeiT-III files name LayerScale gamma_1, gamma_2
    return functools.partial(found, adapt_layer_scale=True) if deit_scales else found


def _finish(net: nn.Module, architecture: str, source: dict[str, Any], crop_pct: float | None) -> LoadedModel:
    net.eval().requires_grad_(False)
    config = resolve_model_data_config(net)
    patches = getattr(net, "patch_embed", None)
    if patches is not None and getattr(patches, "img_size", None):
        config["input_size"] = (config["input_size"][0], *patches.img_size)
    if crop_pct is not None:
        config["crop_pct"] = crop_pct
    facts = {"architecture": architecture, "timm": timm.__version__, "input_size": list(config["input_size"])}
    return LoadedModel(
        net=net,
        transform=cast(Callable[[Any], Tensor], create_transform(**config, is_training=False)),
        architecture=architecture,
        input_size=tuple(config["input_size"]),
        num_classes=int(getattr(net, "num_classes", 0) or 0),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        source={**facts, **source, "global_pool": getattr(net, "global_pool", None)},
    )
