"""The adapter that a network needs, from the class it is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from saintprune.errors import SaintpruneError

if TYPE_CHECKING:
    from saintprune.adapters.base import ViTAdapter
    from saintprune.adapters.vlm import VLM


def adapter_for(net: nn.Module) -> ViTAdapter | VLM:
    """Return the adapter for a network of timm or transformers; only the library that made it is imported.

    Raises:
        SaintpruneError: no adapter knows the network; the message names those that are known.
    """
    makers = {kind.__module__.partition(".")[0] for kind in type(net).__mro__}
    if "timm" in makers:
        return _timm(net)
    if "transformers" in makers:
        return _transformers(net)
    raise _unknown(net)


def _timm(net: nn.Module) -> ViTAdapter:
    from saintprune.adapters.timm_eva import TimmEva
    from saintprune.adapters.timm_vit import TimmViT

    for adapter in (TimmViT, TimmEva):
        if isinstance(net, adapter.network):
            return adapter(net)
    raise _unknown(net)


def _transformers(net: nn.Module) -> ViTAdapter | VLM:
    from saintprune.adapters.hf_vision import TOWERS, HFVision
    from saintprune.adapters.vlm import VLM
    from saintprune.adapters.vlm_families import FAMILIES

    if type(net) in FAMILIES:
        return VLM(net)
    if type(net) in TOWERS:
        return HFVision(net)
    raise _unknown(net)


def _unknown(net: nn.Module) -> SaintpruneError:
    from saintprune.adapters.hf_vision import TOWERS
    from saintprune.adapters.vlm_families import FAMILIES

    return SaintpruneError(
        f"no adapter prunes a {type(net).__name__}. Known are VisionTransformer and Eva of timm;"
        f" {', '.join(kind.__name__ for kind in (*TOWERS, *FAMILIES))} of transformers. Of a network that holds one of"
        " them, give that part; of a compiled or wrapped one, the network inside"
    )
