"""saintprune: training-free token reduction for Vision Transformers and Vision-Language Models.

import saintprune
with saintprune.prune(net, "saint", speedup=2.0, images=batch) as pruned:
    logits = net(images)
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from saintprune.adapters.hf_decoder import HFDecoder
    from saintprune.adapters.hf_vision import HFVision
    from saintprune.adapters.timm_eva import TimmEva
    from saintprune.adapters.timm_vit import TimmViT
    from saintprune.adapters.vlm import VLM
    from saintprune.errors import SaintpruneError
    from saintprune.plan import Plan, Schedule, Stage
    from saintprune.pruning import Pruned, prune
    from saintprune.reduction.interface import LayerState, Reducer, Reduction
    from saintprune.reduction.saint import Saint
    from saintprune.reduction.tome import ToMe

__all__ = [
    "VLM",
    "HFDecoder",
    "HFVision",
    "LayerState",
    "Plan",
    "Pruned",
    "Reducer",
    "Reduction",
    "Saint",
    "SaintpruneError",
    "Schedule",
    "Stage",
    "TimmEva",
    "TimmViT",
    "ToMe",
    "prune",
]

_HOMES = {
    "saintprune.adapters.hf_decoder": ("HFDecoder",),
    "saintprune.adapters.hf_vision": ("HFVision",),
    "saintprune.adapters.timm_eva": ("TimmEva",),
    "saintprune.adapters.timm_vit": ("TimmViT",),
    "saintprune.adapters.vlm": ("VLM",),
    "saintprune.errors": ("SaintpruneError",),
    "saintprune.plan": ("Plan", "Schedule", "Stage"),
    "saintprune.pruning": ("Pruned", "prune"),
    "saintprune.reduction.interface": ("LayerState", "Reducer", "Reduction"),
    "saintprune.reduction.saint": ("Saint",),
    "saintprune.reduction.tome": ("ToMe",),
}


def __getattr__(name: str) -> object:
    """Import what is exported here when it is first used, so that the command line answers without loading torch."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
