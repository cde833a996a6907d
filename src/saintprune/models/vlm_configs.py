"""The published dimensions of vision-language models, so that one with random weights can be built without a hub.

From the ``config.json`` of each repository; what is not listed is the default of transformers' config classes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from saintprune.errors import SaintpruneError, did_you_mean

CLIP_L14_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
VICUNA_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "vocab_size": 32064,
    "pad_token_id": 32001,
}
VICUNA_13B = VICUNA_7B | {
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
}
MISTRAL_7B = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "sliding_window": None,
    "vocab_size": 32064,
    "pad_token_id": 32001,
}
SMOLLM2_360M = {
    "model_type": "llama",
    "hidden_size": 960,
    "intermediate_size": 2560,
    "num_hidden_layers": 32,
    "num_attention_heads": 15,
    "num_key_value_heads": 5,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
    "vocab_size": 49280,
    "pad_token_id": 2,
}
SMOLLM2_135M = SMOLLM2_360M | {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49153,
}
SIGLIP_B16_512 = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 512,
    "patch_size": 16,
}
DINOV2_S14 = {
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "image_size": 518,
    "patch_size": 14,
    "use_mask_token": False,
}
QWEN25_3B = {
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128000,
    "max_window_layers": 70,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    "tie_word_embeddings": True,
    "vocab_size": 151936,
}
QWEN25_TOWER = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "window_size": 112,
    "out_hidden_size": 2048,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
QWEN2_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "vocab_size": 152064,
}
SIGLIP_SO14_384 = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,  # without the last, which is not read
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}

PUBLISHED: dict[str, dict[str, Any]] = {
    "llava-hf/llava-1.5-7b-hf": {
        "model_type": "llava",
        "text_config": VICUNA_7B,
        "vision_config": CLIP_L14_336,
        "image_token_index": 32000,
    },
    "llava-hf/llava-1.5-13b-hf": {
        "model_type": "llava",
        "text_config": VICUNA_13B,
        "vision_config": CLIP_L14_336,
        "image_token_index": 32000,
    },
    "llava-hf/llava-v1.6-mistral-7b-hf": {
        "model_type": "llava_next",
        "text_config": MISTRAL_7B,
        "vision_config": CLIP_L14_336,
        "image_token_index": 32000,
    },
    "HuggingFaceTB/SmolVLM2-500M-Video-Instruct": {
        "model_type": "smolvlm",
        "text_config": SMOLLM2_360M,
        "vision_config": SIGLIP_B16_512,
        "scale_factor": 4,
        "image_token_id": 49190,
    },
    "Qwen/Qwen2.5-VL-3B-Instruct": {
        "model_type": "qwen2_5_vl",
        "text_config": QWEN25_3B,
        "vision_config": QWEN25_TOWER,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen2-VL-7B-Instruct": {
        "model_type": "qwen2_vl",
        "text_config": QWEN2_7B
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}},
        "vision_config": {"hidden_size": 3584},  # of what leaves it; the defaults are its other dimensions
    },
    "OpenGVLab/InternVL3-8B-hf": {
        "model_type": "internvl",
        "text_config": QWEN2_7B
        | {
            "model_type": "qwen2",
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0},
            "vocab_size": 151674,
        },
        "vision_config": {"attention_bias": True},  # the defaults are its dimensions
        "tie_word_embeddings": False,
    },
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": {
        "model_type": "llava_onevision",
        "text_config": QWEN2_7B | {"model_type": "qwen2"},
        "vision_config": SIGLIP_SO14_384,
    },
    "vit_s14_smollm2": {
        "model_type": "llava",
        "text_config": SMOLLM2_135M,
        "vision_config": DINOV2_S14,
        "image_token_index": 49152,
        "image_seq_length": 256,
        "tie_word_embeddings": True,
    },
}


def published_config(name: str | None, changes: Mapping[str, Any] | None) -> PreTrainedConfig:
    """Return the config of a published model, with `changes` merged into it.

    Args:
        name: A key of `PUBLISHED`; None or another one needs `changes` with a ``model_type``.
        changes: Keys of the config; ``text_config`` and ``vision_config`` are merged key by key.

    Raises:
        SaintpruneError: If the dimensions are not known, or transformers refuses a value.
    """
    changes = dict(changes or {})
    if name not in PUBLISHED and "model_type" not in changes:
        raise SaintpruneError(
            f"the dimensions of {name} are not known{did_you_mean(name or '', PUBLISHED)}; known are "
            f"{', '.join(PUBLISHED)}; or give model.net.config with model_type, text_config and vision_config"
        )
    content = copy.deepcopy(PUBLISHED.get(name or "", {}))
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(content.get(key), dict)
        content[key] = content[key] | dict(value) if nested else value
    try:
        return AutoConfig.for_model(content.pop("model_type"), **content)
    except (TypeError, ValueError, AttributeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise SaintpruneError(f"model.net.config is not one that transformers takes: {reason}") from error
