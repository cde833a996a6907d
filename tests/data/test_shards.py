"""Shards of images: exact counts, a fixed order, labels and names of classes, and broken images that are told."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from saintprune.data.base import Share
from saintprune.data.parquet import Parquet
from saintprune.data.webdataset import WebDataset, split_name
from saintprune.errors import SaintpruneError

Sample = tuple[bytes, int | str]
NAMES = ["tench", "goldfish", "hen"]


def to_tensor(image: Image.Image) -> Tensor:
    return torch.tensor(list(image.resize((2, 2)).tobytes())).view(2, 2, 3).permute(2, 0, 1).float()


def png(color: int) -> bytes:
    content = io.BytesIO()
    Image.new("L", (4, 4), color=color).save(content, "PNG")
    return content.getvalue()


def samples(count: int, first: int = 0) -> list[Sample]:
    """Images whose colour is their number, labelled with that modulo 3."""
    return [(png(number), number % 3) for number in range(first, first + count)]


def write_tar(path: Path, found: list[Sample]) -> Path:
    with tarfile.open(path, "w") as archive:
        for number, (image, label) in enumerate(found):
            for name, content in ((f"{number:04d}.png", image), (f"{number:04d}.cls", str(label).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def write_parquet(path: Path, found: list[Sample], names: list[str] | None = NAMES, plain: bool = False) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    images = [image if plain else {"bytes": image, "path": None} for image, _ in found]
    table = pyarrow.table({"image": images, "label": [label for _, label in found]})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pytest.importorskip("pyarrow.parquet").write_table(table, path, row_group_size=3)
    return path


KINDS = {"parquet": (Parquet, write_parquet, "parquet"), "webdataset": (WebDataset, write_tar, "tar")}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def two_shards(kind, folder: Path) -> Path:
    """Write 8 and 5 images."""
    _, write, suffix = kind
    folder.mkdir(exist_ok=True)
    write(folder / f"a.{suffix}", samples(8))
    write(folder / f"b.{suffix}", samples(5, first=8))
    return folder


def data_of(kind, path: Path | str | None, **settings):
    settings = {"transform": to_tensor, "batch_size": 4, **settings}
    return kind[0](path=None if path is None else str(path), **settings)


def pairs(loader) -> list[tuple[int, int]]:
    """The colour and the label of each image."""
    return [
        (int(image[0, 0, 0]), int(label))
        for images, labels in loader
        for image, label in zip(images, labels, strict=True)
    ]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_every_image_once_with_its_label(kind, tmp_path, num_workers) -> None:
    folder = two_shards(kind, tmp_path)
    data = data_of(kind, folder, num_workers=num_workers)
    found = pairs(data.test_dataloader())
    assert sorted(found) == [(number, number % 3) for number in range(13)] and found != sorted(found)
    assert found == pairs(data_of(kind, f"{folder}/*.{kind[2]}", batch_size=5).test_dataloader())
    shares = [pairs(data.test_dataloader(Share(rank, 2))) for rank in range(2)]
    assert len(shares[0]) + len(shares[1]) == 13 and not set(shares[0]) & set(shares[1])


def test_a_limit_and_training_images(kind, tmp_path) -> None:
    folder = two_shards(kind, tmp_path / "val")
    data = data_of(kind, folder, limit=6, train_path=str(two_shards(kind, tmp_path / "train")))
    assert sorted(label for _, label in pairs(data.test_dataloader())) == [0, 0, 1, 1, 2, 2]
    assert len(pairs(data.train_dataloader())) == 13


def test_broken_images_are_named_or_left_out(kind, tmp_path) -> None:
    found = samples(8)
    found[3] = (found[3][0][:-20], 0)
    kind[1](tmp_path / f"a.{kind[2]}", found)
    name = {"tar": "a.tar/0003.png", "parquet": "a.parquet#1:0"}[kind[2]]
    with pytest.raises(SaintpruneError, match=f"1 of 8 images in .* cannot be read: {name} .*; .*on_broken=skip"):
        pairs(data_of(kind, tmp_path).test_dataloader())
    data = data_of(kind, tmp_path, on_broken="skip")
    with pytest.warns(UserWarning, match="they are left out"):
        data.setup()
    assert data.broken == (name,) and len(pairs(data.test_dataloader())) == 7


def test_grey_images_of_16_bits_keep_the_upper_8(kind, tmp_path) -> None:
    content = io.BytesIO()
    Image.fromarray(np.full((4, 4), 256 * 100, np.uint16)).save(content, "PNG")
    kind[1](tmp_path / f"a.{kind[2]}", [(content.getvalue(), 0)])
    assert pairs(data_of(kind, tmp_path).test_dataloader()) == [(100, 0)]


def test_places_without_shards(kind, tmp_path) -> None:
    for path, words in [(None, "dataset.path is not set"), (tmp_path, "nothing is like"), ("no*where", "no.where")]:
        with pytest.raises(SaintpruneError, match=words):
            data_of(kind, path).setup()
    if kind[2] == "parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / f"a.{kind[2]}").write_bytes(b"no shard at all")
    with pytest.raises(SaintpruneError, match=rf"a\.{kind[2]} (cannot be read|is no tar)"):
        data_of(kind, tmp_path).setup()


def test_classes(tmp_path) -> None:
    write_parquet(tmp_path / "named.parquet", samples(6))
    write_parquet(tmp_path / "words.parquet", [(png(0), "hen"), (png(1), "cock")], names=None, plain=True)
    write_parquet(tmp_path / "bare.parquet", samples(2), names=None)
    write_tar(tmp_path / "bare.tar", samples(2))
    expected = {"named.parquet": tuple(NAMES), "words.parquet": ("cock", "hen"), "bare.parquet": ("0", "1")}
    for file, classes in expected.items():
        data = data_of(KINDS["parquet"], tmp_path / file)
        data.setup()
        assert data.classes == classes
    data = data_of(KINDS["webdataset"], tmp_path / "bare.tar", num_classes=5)
    data.setup()
    assert data.classes == ("0", "1", "2", "3", "4")


def test_labels_that_cannot_be(tmp_path) -> None:
    parquet, tar = KINDS["parquet"], KINDS["webdataset"]
    write_parquet(tmp_path / "test.parquet", [(png(0), -1)])
    write_parquet(tmp_path / "few.parquet", samples(3), names=NAMES[:2])
    write_parquet(tmp_path / "other.parquet", samples(3), names=[*NAMES, "cock"])
    write_tar(tmp_path / "words.tar", [(png(0), "hen")])
    with tarfile.open(tmp_path / "alone.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("x/0001.cls"), io.BytesIO())
    for kind, path, words, settings in [
        (parquet, "test.parquet", "label -1: take a split with labels", {}),
        (parquet, "few.parquet", "label 2, but there are 2 classes", {}),
        (parquet, "*e*.parquet", "names other classes than", {}),
        (parquet, "few.parquet", r"no column 'labels' .did you mean 'label'.*it has image, label", {"label": "labels"}),
        (tar, "words.tar", "words.tar/0000.cls holds b'hen', but must hold the number", {}),
        (tar, "words.tar", "lack the one or the other", {"label": "txt"}),
    ]:
        with pytest.raises(SaintpruneError, match=words):
            data_of(kind, tmp_path / path, **settings).setup()
    with pytest.raises(SaintpruneError, match="num_classes is 0"):
        data_of(tar, tmp_path, num_classes=0)


def test_a_row_without_an_image_is_broken(tmp_path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    cells = [{"bytes": png(0), "path": None}, {"bytes": None, "path": "elsewhere.png"}]
    pytest.importorskip("pyarrow.parquet").write_table(
        pyarrow.table({"image": cells, "label": [0, 1]}), tmp_path / "a.parquet"
    )
    with pytest.raises(SaintpruneError, match=r"1 of 2 images in .* cannot be read: a.parquet#0:1"):
        pairs(data_of(KINDS["parquet"], tmp_path).test_dataloader())


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(SaintpruneError, match=r"pip install 'saintprune\[parquet\]'"):
        data_of(KINDS["parquet"], tmp_path).setup()


def test_two_images_of_one_sample_are_refused(tmp_path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("x/1.jpg", "x/1.png"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(SaintpruneError, match=r"a.tar has two images of one sample, x/1.jpg and x/1.png: keep one of"):
        data_of(KINDS["webdataset"], tmp_path).setup()


def test_names_in_tar_files() -> None:
    assert split_name("a.b/0001.seg.PNG") == ("a.b/0001", "seg.png")
    assert split_name("0001.cls") == ("0001", "cls")
