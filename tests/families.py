"""One small, random network of every family that the timm adapters support."""

import timm
import torch
from timm.models.vision_transformer import ResPostBlock

from saintprune.adapters.timm_eva import TimmEva
from saintprune.adapters.timm_vit import TimmViT

SMALL = {"depth": 4, "embed_dim": 48, "num_heads": 4, "num_classes": 7, "img_size": 64}
VIT = {
    "vit": ("vit_tiny_patch16_224", {}),
    "deit": ("deit_tiny_patch16_224", {}),
    "deit_distilled": ("deit_tiny_distilled_patch16_224", {}),
    "deit3": ("deit3_small_patch16_224", {}),
    "clip": ("vit_base_patch16_clip_224", {}),
    "siglip": ("vit_base_patch16_siglip_224", {}),
    "dinov2": ("vit_small_patch14_dinov2", {"img_size": 56}),
    "dinov2_registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 56}),
    "mae_global_pool": ("vit_base_patch16_224", {"global_pool": "avg"}),
    "max_pool": ("vit_base_patch16_224", {"global_pool": "avgmax"}),
    "post_norm": ("vit_tiny_patch16_224", {"block_fn": ResPostBlock}),
    "qk_norm": ("vit_tiny_patch16_224", {"qk_norm": True}),
}
EVA = {
    "eva": ("eva_giant_patch14_224", {"img_size": 56}),
    "eva02": ("eva02_tiny_patch14_224", {"img_size": 56}),
    "dinov3": ("vit_small_patch16_dinov3", {}),
    "rope_mixed": ("vit_small_patch16_rope_mixed_224", {}),
    "eva_post_norm": ("eva02_tiny_patch14_224", {"img_size": 56, "use_post_norm": True}),
}
FAMILIES = {**VIT, **EVA}


def make(family):
    """Return (network, adapter class, images [3, 3, H, W])."""
    name, options = FAMILIES[family]
    options = {**SMALL, **options}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = timm.create_model(name, pretrained=False, **options).eval().requires_grad_(False)
        for parameter in net.parameters():  # fresh networks have zero biases, heads and tokens: nothing may hide there
            parameter.add_(torch.randn_like(parameter) * 0.05)
        images = torch.randn(3, 3, options["img_size"], options["img_size"])
    return net, TimmViT if family in VIT else TimmEva, images
