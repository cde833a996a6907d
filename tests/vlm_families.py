"""Tiny vision-language models of every architecture that is supported, with prompts for them."""

from __future__ import annotations

import torch
from transformers import (
    CLIPVisionConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    MistralConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

IMAGE = 98  # the placeholder's token
VIDEO = 97  # that of videos, where a model takes them
PER_IMAGE = 16  # tokens of an image
SPREAD = 0.3  # of the random weights: wide enough that a wrong mask or position changes the answer
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}


def text(**more):
    return {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 100, "eos_token_id": 99, "pad_token_id": 0, "bos_token_id": 1,
        "initializer_range": SPREAD, **more,
    }  # fmt: skip


def clip():
    return CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, image_size=16, patch_size=4,
        initializer_range=SPREAD, initializer_factor=3.0,
    )  # fmt: skip


def llava(**more):
    own = {
        "vision_config": clip(), "text_config": LlamaConfig(**text()), "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }  # fmt: skip
    config = LlavaConfig(image_token_id=IMAGE, **{**own, **more})
    return LlavaForConditionalGeneration, config


def llava_next():
    config = LlavaNextConfig(
        vision_config=clip(), text_config=MistralConfig(**text(sliding_window=None)), image_token_id=IMAGE,
        vision_feature_layer=-2, vision_feature_select_strategy="default",
        image_grid_pinpoints=[[16, 32], [32, 16], [32, 32]],
    )  # fmt: skip
    return LlavaNextForConditionalGeneration, config


def onevision():
    tower = {
        "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": 16, "patch_size": 4, "initializer_range": SPREAD,
        "vision_use_head": False,
    }  # fmt: skip
    config = LlavaOnevisionConfig(
        vision_config=tower, text_config=Qwen2Config(**text()), image_token_index=IMAGE, video_token_index=VIDEO,
        image_grid_pinpoints=[[16, 32], [32, 16], [32, 32]],
        vision_aspect_ratio="anyres_max_2",  # features of four tiles are resized
    )  # fmt: skip
    return LlavaOnevisionForConditionalGeneration, config


def smolvlm():
    tower = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": 32, "patch_size": 4, "initializer_range": SPREAD,
    }  # fmt: skip
    config = SmolVLMConfig(
        vision_config=tower, text_config=LlamaConfig(**text()), image_token_id=IMAGE, scale_factor=2, pad_token_id=0
    )
    return SmolVLMForConditionalGeneration, config


def internvl():
    tower = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": [32, 32], "patch_size": [4, 4], "initializer_range": SPREAD, "layer_scale_init_value": 1.0,
    }  # fmt: skip
    config = InternVLConfig(vision_config=tower, text_config=Qwen2Config(**text()), image_token_id=IMAGE)
    return InternVLForConditionalGeneration, config


def on_a_grid():
    """What the configs of the two models say whose image tokens have rows and columns for positions."""
    return {
        "text_config": text(rope_parameters=ROPE), "image_token_id": IMAGE, "video_token_id": VIDEO,
        "vision_start_token_id": 96, "vision_end_token_id": 95,
    }  # fmt: skip


def qwen2():
    tower = {
        "depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 4, "spatial_merge_size": 2,
        "temporal_patch_size": 1, "initializer_range": SPREAD,
    }  # fmt: skip
    return Qwen2VLForConditionalGeneration, Qwen2VLConfig(vision_config=tower, **on_a_grid())


def qwen():
    tower = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 32, "patch_size": 4,
        "window_size": 16, "fullatt_block_indexes": [1], "spatial_merge_size": 2, "temporal_patch_size": 1,
    }  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig(vision_config=tower, **on_a_grid())


VLMS = {
    "llava": llava,
    "llava_next": llava_next,
    "onevision": onevision,
    "smolvlm": smolvlm,
    "internvl": internvl,
    "qwen2": qwen2,
    "qwen": qwen,
}


def build(name, implementation="sdpa", **more):
    """A tiny random model of an architecture."""
    torch.manual_seed(0)
    kind, config = VLMS[name](**more)
    return kind._from_config(config, attn_implementation=implementation).eval()


def prompts(lengths, padding):
    """Left-padded prompts with images of the given lengths: [[16], [16, 16], []] are one, two and none."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for images in lengths:
        row = []
        for length in images:
            row += [*torch.randint(2, 90, (2,), generator=generator).tolist(), *[IMAGE] * length]
        rows.append(row + torch.randint(2, 90, (4,), generator=generator).tolist())
    width = max(len(row) + pad for row, pad in zip(rows, padding, strict=True))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def inputs(name, net, images=(1, 2, 0), padding=(5, 0, 3)):
    """Prompts with different numbers of images, and the images."""
    torch.manual_seed(2)
    count = sum(images)
    lengths, more = [PER_IMAGE] * count, {}
    if count and name == "llava":
        more = {"pixel_values": torch.randn(count, 3, 16, 16)}
    elif count and name == "llava_next":
        sizes = torch.tensor([[16, 32], [32, 32], [30, 12]])[:count]
        more = {"pixel_values": torch.randn(count, 5, 3, 16, 16), "image_sizes": sizes}
        lengths = [len(feature) for feature in net.model.get_image_features(**more).pooler_output]
    elif count and name == "onevision":
        sizes = torch.tensor([[32, 20], [16, 32], [30, 12]])[:count]
        more = {
            "pixel_values": torch.randn(count, 5, 3, 16, 16), "image_sizes": sizes,
            "batch_num_images": torch.tensor(images),  # one alone is cut into tiles
        }  # fmt: skip
        lengths = [len(feature) for feature in net.model.get_image_features(**more).pooler_output]
    elif count and name == "internvl":
        more = {"pixel_values": torch.randn(count, 3, 32, 32)}
    elif count and name == "smolvlm":
        pixels = torch.randn(len(images), max(images), 3, 32, 32)
        for sample, number in enumerate(images):
            pixels[sample, number:] = 0
        more = {"pixel_values": pixels}
    elif count:
        more = {"pixel_values": torch.randn(count * 64, 48), "image_grid_thw": torch.tensor([[1, 8, 8]] * count)}
    rest = iter(lengths)
    found = prompts([[next(rest) for _ in range(number)] for number in images], padding) | more
    if "image_grid_thw" in found:
        found["mm_token_type_ids"] = (found["input_ids"] == IMAGE).int()
    return found


def row_of(name, batch, sample, images=(1, 2, 0)):
    """One prompt of a batch, without its padding."""
    real = batch["attention_mask"][sample].bool()
    row = {key: batch[key][sample : sample + 1, real] for key in ("input_ids", "attention_mask")}
    first, count = sum(images[:sample]), images[sample]
    if "mm_token_type_ids" in batch:
        row["mm_token_type_ids"] = (row["input_ids"] == IMAGE).int()
    if not count:
        return {key: value for key, value in row.items() if key != "mm_token_type_ids"}
    if name == "smolvlm":
        return row | {"pixel_values": batch["pixel_values"][sample : sample + 1, :count]}
    per_image = 64 if "image_grid_thw" in batch else 1
    row["pixel_values"] = batch["pixel_values"][first * per_image : (first + count) * per_image]
    for key in ("image_sizes", "image_grid_thw"):
        if key in batch:
            row[key] = batch[key][first : first + count]
    if "batch_num_images" in batch:
        row["batch_num_images"] = batch["batch_num_images"][sample : sample + 1]
    return row
