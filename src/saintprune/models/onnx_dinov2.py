"""An ONNX export of Hugging Face's DINOv2 as a state dict for timm.

The exporter keeps the names of biases and norms, but folds and renames the matrices (``onnx::MatMul_1966``). Such a
matrix is known by the node that uses it: ``/backbone/encoder/layer.0/attention/attention/key/MatMul``.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from saintprune.errors import SaintpruneError

PREFIX = "backbone."

# Hugging Face name -> timm name, inside one block
BLOCK_PARTS = {
    "norm1": "norm1",
    "attention.output.dense": "attn.proj",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
LAYER_SCALES = {"layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma"}


def state_dict_from_onnx(path: Path) -> dict[str, Tensor]:
    """Return the backbone of the ONNX file at `path` under timm's names; any decoder is left out.

    Raises:
        SaintpruneError: If the graph lacks a weight that a DINOv2 backbone has.
    """
    graph = onnx.load(str(path)).graph
    try:
        return to_timm(named_weights(graph))
    except KeyError as error:
        raise SaintpruneError(f"{path} has no weight {error}: it is not a DINOv2 backbone export") from None


def named_weights(graph: onnx.GraphProto) -> dict[str, Tensor]:
    """Return the backbone's weights under Hugging Face's names, ``nn.Linear`` matrices as (out, in)."""
    arrays = {item.name: item for item in graph.initializer}
    named = {name.removeprefix(PREFIX): _tensor(item) for name, item in arrays.items() if name.startswith(PREFIX)}
    for node in graph.node:
        anonymous = [name for name in node.input if name.startswith("onnx::") and name in arrays]
        if node.op_type == "MatMul" and anonymous:
            module = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            # ONNX computes x @ W with W (in, out); nn.Linear keeps (out, in)
            named[f"{module.removeprefix(PREFIX)}.weight"] = _tensor(arrays[anonymous[0]]).T.contiguous()
    named["embeddings.position_embeddings"] = _position_embeddings(graph, arrays)
    return named


def to_timm(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename Hugging Face's DINOv2 weights to timm's, with query, key and value fused into ``qkv``."""
    patches = "embeddings.patch_embeddings.projection"
    out = {
        "cls_token": named["embeddings.cls_token"],
        "pos_embed": named["embeddings.position_embeddings"],
        "patch_embed.proj.weight": named[f"{patches}.weight"],
        "patch_embed.proj.bias": named[f"{patches}.bias"],
        "norm.weight": named["layernorm.weight"],
        "norm.bias": named["layernorm.bias"],
    }
    depth = 1 + max(int(name.split(".")[2]) for name in named if name.startswith("encoder.layer."))
    for index in range(depth):
        source, target = f"encoder.layer.{index}", f"blocks.{index}"
        for kind in ("weight", "bias"):
            parts = [named[f"{source}.attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            out[f"{target}.attn.qkv.{kind}"] = torch.cat(parts)  # 3 x (d, d) -> (3d, d), 3 x (d,) -> (3d,)
            for theirs, ours in BLOCK_PARTS.items():
                out[f"{target}.{ours}.{kind}"] = named[f"{source}.{theirs}.{kind}"]
        for theirs, ours in LAYER_SCALES.items():
            out[f"{target}.{ours}"] = named[f"{source}.{theirs}"]
    return out


def _position_embeddings(graph: onnx.GraphProto, arrays: dict[str, onnx.TensorProto]) -> Tensor:
    """Return the position embeddings (1, 1 + patches, d): the exporter has split the CLS entry from the grid."""
    parts: dict[str, Tensor] = {}
    for node in graph.node:
        anonymous = [name for name in node.input if name.startswith("onnx::") and name in arrays]
        if anonymous and "/embeddings/" in node.name and node.op_type in ("Reshape", "Concat"):
            value = _tensor(arrays[anonymous[0]])
            if value.ndim == 3:
                parts[node.op_type] = value
    return torch.cat([parts["Concat"], parts["Reshape"]], dim=1)  # (1, 1, d), (1, n, d) -> (1, 1 + n, d)


def _tensor(item: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(item).copy())
