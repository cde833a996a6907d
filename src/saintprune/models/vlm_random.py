"""Vision-language models with random weights: for timing, and for tests."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from saintprune.errors import SaintpruneError

STD = 0.02
CHUNK = 1 << 24  # numbers drawn at a time, in float32


def build(
    architecture: type[PreTrainedModel],
    config: PreTrainedConfig,
    *,
    attn_implementation: str,
    dtype: torch.dtype,
    seed: int,
) -> PreTrainedModel:
    """Return a network with normal weights, ones in its norms and zeros in its biases, drawn from `seed`.

    Raises:
        SaintpruneError: If transformers cannot build it.
    """
    try:
        # the libraries' own initialisation takes minutes at these sizes; some constructors draw numbers all the same
        with no_init_weights(), torch.random.fork_rng(devices=[]):
            net = architecture._from_config(config, attn_implementation=attn_implementation, dtype=dtype)
    except (TypeError, ValueError, AssertionError) as error:
        raise SaintpruneError(
            f"transformers cannot build {architecture.__name__}: {str(error).splitlines()[0]}"
        ) from error
    net.tie_weights()
    _draw(_plain(net), seed)
    return net


def sample(config: PreTrainedConfig, layers: int) -> dict[str, dict[str, int]]:
    """Cut a config down to `layers` decoder layers and tower blocks of the published width.

    The tower keeps at least the blocks that its feature layer is counted from (2 for the usual -2).

    Args:
        config: Of the whole model; changed in place.
        layers: How many to keep.

    Returns:
        Per part, how many it has now, and how many are published.

    Raises:
        SaintpruneError: If there are fewer.
    """
    text, vision = config.text_config, config.vision_config
    published = {"language": text.num_hidden_layers, "vision": vision.num_hidden_layers}
    if not 1 <= layers <= min(published.values()):
        raise SaintpruneError(
            f"model.sample_layers is {layers}, but the model has {published['language']} decoder layers and "
            f"{published['vision']} tower blocks"
        )
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    feature_layers: Any = getattr(config, "vision_feature_layer", -1)
    deepest = max(abs(layer) for layer in ([feature_layers] if isinstance(feature_layers, int) else feature_layers))
    vision.num_hidden_layers = max(layers, deepest)
    if getattr(vision, "fullatt_block_indexes", None) is not None:
        vision.fullatt_block_indexes = [vision.num_hidden_layers - 1]  # the others attend within windows
    kept = {"language": layers, "vision": vision.num_hidden_layers}
    return {part: {"sampled": kept[part], "published": published[part]} for part in kept}


def _plain(net: nn.Module) -> list[Tensor]:
    """Fill norms and biases; return the other parameters, each once."""
    rest = {}
    with torch.no_grad():
        for module in net.modules():
            for name, parameter in module.named_parameters(recurse=False):
                kind = type(module).__name__
                if name == "bias":
                    parameter.zero_()
                elif "Norm" in kind or "LayerScale" in kind:
                    parameter.fill_(1.0)
                else:
                    rest[parameter] = None
    return list(rest)


def _draw(parameters: list[Tensor], seed: int) -> None:
    """Fill with normal numbers, on all cores: each chunk has its own generator, so that the numbers are the same on
    every machine.
    """
    chunks = [chunk for parameter in parameters for chunk in parameter.detach().view(-1).split(CHUNK)]

    inference = torch.is_inference_mode_enabled()  # each thread has a mode of its own

    def fill(number: int) -> None:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        with torch.inference_mode(inference):
            chunks[number].copy_(torch.empty(len(chunks[number])).normal_(0.0, STD, generator=generator))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(len(chunks))))
