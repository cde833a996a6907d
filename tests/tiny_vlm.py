"""A random LLaVA of a few thousand weights with a tokenizer of bytes: what answers it gives means nothing."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from saintprune.models.vlm import LoadedVLM

SIDE, PATCH = 56, 14  # pixels: 4 x 4 patches
PATCHES = (SIDE // PATCH) ** 2
SPECIAL = ["<pad>", "<eos>", "<image>"]


TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ 'Q: ' + part['text'] + '\n' }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'A:' }}{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Return one with a token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE(vocab={char: number for number, char in enumerate(SPECIAL + alphabet)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bytewise,
        pad_token="<pad>",
        eos_token="<eos>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
    )


def load(depth: int = 4, template: str = TEMPLATE) -> LoadedVLM:
    """Return the model: 4 decoder layers, 2 tower blocks, 16 tokens per image; the same weights every time."""
    tokens = tokenizer()
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**small, num_hidden_layers=2, image_size=SIDE, patch_size=PATCH),
        text_config=LlamaConfig(
            **small, num_hidden_layers=depth, num_key_value_heads=2, vocab_size=len(tokens), max_position_embeddings=512
        ),
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        image_seq_length=PATCHES,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = LlavaForConditionalGeneration(config).eval().requires_grad_(False)
        for parameter in net.parameters():  # loud enough for what the network sees to decide what it says
            parameter.add_(torch.randn_like(parameter) * 0.1)
    net.generation_config.update(eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id)
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokens,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    return LoadedVLM(net, processor, type(net).__name__, {"weights": "random"})
