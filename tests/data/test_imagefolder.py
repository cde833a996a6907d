"""Class folders: labels, order, limits, and broken images, which are never silently skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from saintprune.data.imagefolder import ImageFolder
from saintprune.data.imagenet import ImageNet1k
from saintprune.errors import SaintpruneError


def to_tensor(image: Image.Image) -> Tensor:
    return torch.tensor(list(image.resize((2, 2)).tobytes())).view(2, 2, 3).permute(2, 0, 1).float()


def folder(root: Path, **counts: int) -> Path:
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("L", (4, 4), color=10 * label + index).save(root / name / f"{index}.png")
    return root


def data_of(path: Path | None, **settings: object) -> ImageFolder:
    settings = {"transform": to_tensor, "batch_size": 4, **settings}
    return ImageFolder(path=None if path is None else str(path), **settings)


def labels_of(loader: object) -> list[int]:
    return [int(label) for _, labels in loader for label in labels]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_are_mixed_and_repeatable(tmp_path: Path, num_workers: int) -> None:
    data = data_of(folder(tmp_path, cat=8, dog=8), num_workers=num_workers)
    data.setup()
    assert data.classes == ("cat", "dog") and data.num_classes == 2 and data.broken == ()
    before = torch.get_rng_state()
    (images, labels), *rest = data.test_dataloader()
    assert torch.equal(before, torch.get_rng_state())
    assert images.shape == (4, 3, 2, 2) and images.dtype == torch.float32 and labels.dtype == torch.long
    assert len(rest) == 3
    order = labels_of(data.test_dataloader())
    assert order == labels_of(data.test_dataloader()) and order != sorted(order)
    assert all((image[0, 0, 0] >= 10) == bool(label) for image, label in zip(images, labels, strict=True))


def test_a_limit_is_spread_over_the_classes(tmp_path: Path) -> None:
    data = data_of(folder(tmp_path, cat=12, dog=6), limit=6)
    assert sorted(labels_of(data.test_dataloader())) == [0, 0, 0, 0, 1, 1]
    assert len(labels_of(data_of(tmp_path, limit=99).test_dataloader())) == 18


@pytest.mark.parametrize("num_workers", [0, 2])
def test_broken_images_stop_the_run_with_names_and_a_count(tmp_path: Path, num_workers: int) -> None:
    folder(tmp_path, cat=8, dog=8)
    for index in range(6):
        (tmp_path / "cat" / f"{index}.png").write_bytes(b"\x89PNG broken")
    png = (tmp_path / "dog" / "0.png").read_bytes()
    (tmp_path / "dog" / "0.png").write_bytes(png[:-20])  # truncated
    data = data_of(tmp_path, num_workers=num_workers)
    with pytest.raises(SaintpruneError) as caught:
        labels_of(data.test_dataloader())
    message = str(caught.value)
    assert f"7 of 16 images in {tmp_path} cannot be read: " in message
    assert message.count(".png") == 5 and "and 2 more" in message and "on_broken=skip" in message
    assert "Traceback" not in message and caught.value.__suppress_context__


def test_broken_images_can_be_left_out_on_the_record(tmp_path: Path) -> None:
    folder(tmp_path, cat=4, dog=4)
    (tmp_path / "cat" / "1.png").write_bytes(b"")
    data = data_of(tmp_path, on_broken="skip")
    told = r"1 of 8 images in .* cannot be read: cat/1.png \(no known kind of image\); they are left out"
    with pytest.warns(UserWarning, match=told):
        data.setup()
    assert data.broken == ("cat/1.png",)
    assert len(labels_of(data.test_dataloader())) == 7


@pytest.mark.parametrize("name", ["0.png", "0.tif", "0.pgm"])
def test_grey_images_of_16_bits_keep_the_upper_8(tmp_path: Path, name: str) -> None:
    (tmp_path / "cat").mkdir()
    pixels = np.array([[0, 255], [256 * 100, 65535]], np.uint16)
    if name == "0.pgm":
        (tmp_path / "cat" / name).write_bytes(b"P5 2 2 65535\n" + pixels.astype(">u2").tobytes())
    else:
        Image.fromarray(pixels).save(tmp_path / "cat" / name)
    ((images, _),) = data_of(tmp_path).test_dataloader()
    assert images[0].tolist() == [[[0, 0], [100, 255]]] * 3


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.array([[0, 70000]], np.int32), r"grey values 0 to 70000, not 0 to 255: save it with 8 or 16 bits"),
        (np.array([[-1, 7]], np.int32), "grey values -1 to 7"),
        (np.array([[0, 300.5]], np.float32), "grey values 0 to 300.5"),
        (np.array([[0, 0.5]], np.float32), "grey values 0 to 0.5"),
        (np.array([[7, np.nan]], np.float32), "grey values nan to nan"),
    ],
)
def test_grey_values_that_8_bits_cannot_hold_are_broken(tmp_path: Path, pixels: np.ndarray, reason: str) -> None:
    folder(tmp_path, cat=1, dog=1)
    Image.fromarray(pixels).save(tmp_path / "cat" / "0.tif")
    with pytest.raises(SaintpruneError, match=rf"1 of 3 images in .* cannot be read: cat/0.tif \({reason}"):
        labels_of(data_of(tmp_path).test_dataloader())


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_grey_values_that_8_bits_hold_are_read(tmp_path: Path, dtype: type) -> None:
    (tmp_path / "cat").mkdir()
    Image.fromarray(np.array([[0, 10], [100, 255]], dtype)).save(tmp_path / "cat" / "0.tif")
    ((images, _),) = data_of(tmp_path).test_dataloader()
    assert images[0].tolist() == [[[0, 10], [100, 255]]] * 3


def test_hidden_files_and_folders_are_no_images(tmp_path: Path) -> None:
    folder(tmp_path, cat=2)
    (tmp_path / "cat" / ".ipynb_checkpoints").mkdir()
    for name in (".ipynb_checkpoints/1-checkpoint.png", "._1.png"):
        Image.new("L", (4, 4)).save(tmp_path / "cat" / name)
    assert len(labels_of(data_of(tmp_path).test_dataloader())) == 2


@pytest.mark.filterwarnings("ignore:.*cannot be read")
def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    folder(tmp_path, cat=1)
    (tmp_path / "cat" / "0.png").write_bytes(b"")
    with pytest.raises(SaintpruneError, match=r"1 of 1 images in .*; none is left"):
        data_of(tmp_path, on_broken="skip").setup()


def test_training_images_have_their_own_folder(tmp_path: Path) -> None:
    test, train = folder(tmp_path / "val", cat=2, dog=2), folder(tmp_path / "train", cat=6, dog=6)
    data = data_of(test, train_path=str(train))
    order = labels_of(data.train_dataloader())
    assert len(order) == 12 and order != sorted(order) and order == labels_of(data.train_dataloader())
    with pytest.raises(SaintpruneError, match=r"dataset.train_path is not set"):
        data_of(test).train_dataloader()
    folder(tmp_path / "other", cat=2, fox=2)
    with pytest.raises(SaintpruneError, match=r"has other classes than .*: dog, fox"):
        data_of(test, train_path=str(tmp_path / "other")).train_dataloader()


def test_palette_images_with_transparency_do_not_warn(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    image = Image.new("P", (4, 4))
    image.save(tmp_path / "cat" / "0.png", transparency=b"\0\1")
    assert labels_of(data_of(tmp_path).test_dataloader()) == [0]


def test_paths_that_hold_nothing(tmp_path: Path) -> None:
    for path, words in [(None, "dataset.path is not set"), (tmp_path / "absent", "there is no folder")]:
        with pytest.raises(SaintpruneError, match=words):
            data_of(path).setup()
    with pytest.raises(SaintpruneError, match=r"has no class folders: expected .*/<class>/<image>"):
        data_of(tmp_path).setup()
    folder(tmp_path, cat=1, dog=0)
    with pytest.raises(SaintpruneError, match=r"1 of 2 class folders hold no images: dog"):
        data_of(tmp_path).setup()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"on_broken": "skipp"}, r"on_broken is 'skipp' \(did you mean 'skip'\?\)"),
        ({"limit": 0}, "dataset.limit is 0; give 1 or more"),
        ({"batch_size": 0}, "dataset.batch_size is 0; give 1 or more"),
        ({"num_workers": -1}, "dataset.num_workers is -1; give 0 or more"),
    ],
)
def test_settings_that_make_no_sense(settings: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(SaintpruneError, match=words):
        data_of(tmp_path, **settings)


def test_a_transform_is_needed(tmp_path: Path) -> None:
    with pytest.raises(SaintpruneError, match=r"dataset imagefolder: no transform"):
        data_of(folder(tmp_path, cat=1), transform=None).setup()


def test_imagenet_wants_a_thousand_synsets(tmp_path: Path) -> None:
    with pytest.raises(SaintpruneError, match=r"FOLDER/val holds 1000 folders"):
        ImageNet1k()
    with pytest.raises(SaintpruneError, match=r"has no folder val"):
        ImageNet1k(path=str(tmp_path))
    folder(tmp_path / "val", n01440764=1)
    with pytest.raises(SaintpruneError, match=r"has 1 class folders; ImageNet-1k has 1000"):
        ImageNet1k(path=str(tmp_path), transform=to_tensor).setup()
    for index in range(1, 1000):
        (tmp_path / "val" / f"n{index:08d}").mkdir()
        (tmp_path / "val" / f"n{index:08d}" / "x.JPEG").write_bytes(b"")  # opened only when asked for
    data = ImageNet1k(path=str(tmp_path), transform=to_tensor, limit=100)
    data.setup()
    assert data.num_classes == 1000 and data.name == "imagenet1k" and len(data.test_dataloader().dataset) == 100
    with pytest.raises(SaintpruneError, match=r"dataset.train_path is not set"):
        data.train_dataloader()
