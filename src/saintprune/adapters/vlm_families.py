"""What the vision-language models of transformers call their parts, and where single image tokens can be dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.models.internvl.modeling_internvl import InternVLForConditionalGeneration
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration
from transformers.models.llava_next.modeling_llava_next import LlavaNextForConditionalGeneration
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLForConditionalGeneration
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMForConditionalGeneration

from saintprune.adapters.hf_vision import TOWERS, HFVision
from saintprune.errors import SaintpruneError
from saintprune.plan import Plan
from saintprune.reduction.baselines import KeepAll


@dataclass(frozen=True)
class Family:
    """Names of the parts inside `net.model`.

    Attributes:
        decoder: the language model.
        tower: the vision tower, where one feature per patch leaves it; "" where the patches are folded together.
        projector: what maps the tower's features to the decoder's width.
        folding: why a patch cannot be dropped in the tower; "" where it can.
        tiled: whether the features of all tiles of a sample come as one.
    """

    decoder: str
    tower: str = ""
    projector: str = ""
    folding: str = ""
    tiled: bool = False


_LLAVA = Family("language_model", "vision_tower", "multi_modal_projector")
FAMILIES: dict[type[nn.Module], Family] = {
    LlavaForConditionalGeneration: _LLAVA,
    LlavaNextForConditionalGeneration: _LLAVA,
    LlavaOnevisionForConditionalGeneration: Family(
        "language_model", folding="it resizes the features of large images, which folds neighbouring patches together"
    ),
    SmolVLMForConditionalGeneration: Family(
        "text_model", folding="its connector folds squares of patches into one token", tiled=True
    ),
    InternVLForConditionalGeneration: Family(
        "language_model", folding="its pixel shuffle folds squares of patches into one token"
    ),
    Qwen2VLForConditionalGeneration: Family("language_model", folding="its tower folds 2x2 patches into one token"),
    Qwen2_5_VLForConditionalGeneration: Family(
        "language_model", folding="its tower attends in windows and folds 2x2 patches into one token"
    ),
}


def family_of(net: nn.Module) -> Family:
    """Return the family of a vision-language model.

    Raises:
        SaintpruneError: it is of none that is known; the message names those.
    """
    family = FAMILIES.get(type(net))
    if family is None:
        known = ", ".join(kind.__name__ for kind in FAMILIES)
        raise SaintpruneError(
            f"VLM cannot prune a {type(net).__name__}; it knows {known} of transformers. For a decoder"
            " alone: HFDecoder, for a vision tower alone: HFVision or TimmViT"
        )
    return family


def tower_of(core: Any, family: Family) -> HFVision | None:
    """Return the adapter of a model's vision tower, None where single patches cannot be dropped in it."""
    return None if why_whole(core, family) else HFVision(getattr(core, family.tower))


def why_whole(core: Any, family: Family) -> str:
    """Return why single patches cannot be dropped in a model's tower; "" where they can."""
    if family.folding:
        return family.folding
    tower = type(getattr(core, family.tower))
    return "" if tower in TOWERS else f"its tower is a {tower.__name__}, which HFVision does not know"


def last_read_block(net: Any, depth: int) -> int:
    """Return the 0-based tower block after which the (first) features are read; pruned blocks lie at or below it."""
    read = net.config.vision_feature_layer
    # hidden state 0 is what enters block 0
    return min((layer - 1 if layer >= 0 else depth + layer) for layer in ([read] if isinstance(read, int) else read))


def check_vision(net: Any, family: Family, tower: HFVision | None, plan: Plan) -> None:
    """Check that the plan's vision stages can work on this model.

    Raises:
        SaintpruneError: single patches cannot be dropped, or a stage prunes above the block whose output is read.
    """
    stages = {
        name: stage
        for name, stage in plan.stages.items()
        if stage.site == "vision" and not isinstance(stage.method, KeepAll)  # which prunes nothing, wherever it is
    }
    if not stages:
        return
    name = next(iter(stages))
    if tower is None:
        raise SaintpruneError(
            f"stages.{name}.site is 'vision', but patches of {type(net).__name__} cannot be dropped one by one:"
            f" {why_whole(net.model, family)}. Use site=projector or site=language"
        )
    last = last_read_block(net, tower.depth)
    for layer, step in Plan(stages).at("vision", tower.depth).items():
        if layer > last:
            raise SaintpruneError(
                f"stages.{step.name}.layers has {layer}, but this model reads its features after block {last} of"
                f" {tower.depth} (vision_feature_layer={net.config.vision_feature_layer}): prune at {last} or below"
            )
