"""Questions from a JSONL file: batches as the model takes them, and errors that name the line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_vlm
from saintprune.data.vqa import VQABatch
from saintprune.data.vqa_jsonl import VQAJsonl
from saintprune.errors import SaintpruneError

LINES = [
    {"image": "a.png", "question": "Which?", "answers": ["a", "A"], "candidates": ["a", "b"], "kind": "one"},
    {"image": ["a.png", "sub/b.png"], "question": "Which of the two is darker?", "answer": "b", "kind": "two", "id": 7},
    {"image": [], "question": "No picture?", "answer": "yes", "candidates": ["yes", "no"], "kind": "none"},
    {"image": "sub/b.png", "question": "Which one now?", "answer": "b", "candidates": ["a", "b"], "kind": "one"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (80, 60), (255, 0, 0)).save(tmp_path / "a.png")
    Image.new("L", (60, 80), 7).save(tmp_path / "sub" / "b.png")
    write(tmp_path, LINES)
    return tmp_path


def write(folder: Path, lines: list) -> Path:
    file = folder / "questions.jsonl"
    file.write_text("\n\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return file


def data(folder: Path, **settings) -> VQAJsonl:
    tiny = tiny_vlm.load()
    settings = {"path": str(folder / "questions.jsonl"), "batch_size": 4, **settings}
    return VQAJsonl(processor=tiny.processor, prompt=tiny.prompt, **settings)


def only_batch(module: VQAJsonl) -> VQABatch:
    (batch,) = module.test_dataloader()
    return batch


def test_samples_with_one_two_and_no_images_share_a_batch(folder: Path) -> None:
    batch, tiny = only_batch(data(folder)), tiny_vlm.load()
    assert len(batch) == 4 and sorted(batch.kinds) == ["none", "one", "one", "two"] and batch.candidates is None
    pictures = {"none": [()], "one": [("a.png",), ("sub/b.png",)], "two": [("a.png", "sub/b.png")]}
    assert all(names in pictures[kind] for names, kind in zip(batch.images, batch.kinds, strict=True))
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    images = (ids == tiny.net.config.image_token_id).sum(dim=1)
    for question, kind, answers, count, row in zip(
        batch.questions, batch.kinds, batch.answers, images.tolist(), range(4), strict=True
    ):
        assert count == tiny_vlm.PATCHES * {"none": 0, "one": 1, "two": 2}[kind]
        told = tiny.processor.tokenizer.decode(ids[row], skip_special_tokens=True)
        assert told.endswith(f"Q: {question}\nA:")
        assert answers in ([["a", "A"], ["b"], ["yes"]])
    assert not mask[:, -1].eq(0).any() and mask[:, 0].eq(0).any()  # padding is on the left
    assert batch.inputs["pixel_values"].shape == (4, 3, 56, 56)
    assert torch.isfinite(tiny.net(**batch.inputs).logits).all()
    # the pictures follow the order of the samples: the first of the two-image sample is the red one
    first = sum({"none": 0, "one": 1, "two": 2}[kind] for kind in batch.kinds[: batch.kinds.index("two")])
    red, green = batch.inputs["pixel_values"][first, :2].mean(dim=(1, 2))
    assert red > 1 and green < -1


def test_text_alone_makes_a_batch_without_pixels(folder: Path) -> None:
    write(folder, LINES[2:3])
    batch = only_batch(data(folder))
    assert set(batch.inputs) == {"input_ids", "attention_mask"} and batch.candidates == [["yes", "no"]]
    assert batch.answers == [["yes"]]


def test_a_batch_moves_its_floats_to_the_precision(folder: Path) -> None:
    batch = only_batch(data(folder)).to("cpu", torch.bfloat16)
    assert batch.inputs["pixel_values"].dtype == torch.bfloat16 and batch.inputs["input_ids"].dtype == torch.long


def test_order_and_limit_are_fixed_and_fair(folder: Path) -> None:
    write(folder, [{"image": [], "question": f"{n}?", "answer": "a", "kind": "xy"[n % 2]} for n in range(40)])
    whole = [q for batch in data(folder).test_dataloader() for q in batch.questions]
    again = [q for batch in data(folder, batch_size=7, num_workers=2).test_dataloader() for q in batch.questions]
    assert whole == again and sorted(whole) == sorted(f"{n}?" for n in range(40)) and whole != sorted(whole)
    kinds = [kind for batch in data(folder, limit=10).test_dataloader() for kind in batch.kinds]
    assert kinds.count("x") == kinds.count("y") == 5


def test_training_questions_come_from_their_own_file(folder: Path) -> None:
    module = data(folder, train_path=str(folder / "questions.jsonl"), name="mine", licence="CC0")
    assert len(next(iter(module.train_dataloader()))) == 4 and (module.name, module.licence) == ("mine", "CC0")
    with pytest.raises(SaintpruneError, match=r"dataset.train_path is not set"):
        data(folder).train_dataloader()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'image': 1}", r"questions.jsonl, line 3 is not JSON: .+"),
        ("[1]", r"line 3 is not an object: expected \{\"image\""),
        (
            {"images": "a.png", "question": "?", "answer": "a"},
            r"line 3 has no 'image' \(did you mean 'images'\?\); see conf",
        ),
        ({"image": "a.png", "answer": "a"}, "line 3 has no 'question'"),
        ({"image": "a.png", "question": " ", "answer": "a"}, "line 3: 'question' must be a string"),
        ({"image": "a.png", "question": "?"}, "line 3 has no 'answer'"),
        ({"image": "a.png", "question": "?", "answers": []}, "line 3: the list of answers is empty"),
        ({"image": "a.png", "question": "?", "answers": [1]}, r"line 3: 'answers' must be .*, not \[1\]"),
        ({"image": 3, "question": "?", "answer": "a"}, "line 3: 'image' must be a string or a list of strings, not 3"),
        ({"image": "c.png", "question": "?", "answer": "a"}, r"line 3: there is no image .*c.png"),
        (
            {"image": "a.png", "question": "?", "answer": "a", "candidates": ["b"]},
            r"line 3: none of the answers \(a\) is among the candidates",
        ),
    ],
)
def test_a_bad_line_is_named(folder: Path, line: object, message: str) -> None:
    write(folder, [LINES[0], line])
    with pytest.raises(SaintpruneError, match=message) as caught:
        data(folder).setup()
    assert "\n" not in str(caught.value)


def test_files_that_hold_no_questions_are_refused(folder: Path) -> None:
    with pytest.raises(SaintpruneError, match=r"dataset.path is not set: give a JSONL file"):
        data(folder, path=None).setup()
    with pytest.raises(SaintpruneError, match=r"dataset.path: there is no file .*none.jsonl"):
        data(folder, path=str(folder / "none.jsonl")).setup()
    write(folder, ["", ""])
    with pytest.raises(SaintpruneError, match="holds no questions"):
        data(folder).setup()
    with pytest.raises(SaintpruneError, match="is not a text file in UTF-8"):
        data(folder, path=str(folder / "a.png")).setup()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_decoded_ends_in_a_report(folder: Path, workers: int) -> None:
    (folder / "a.png").write_bytes(b"not an image")
    told = r"1 of 2 images in .* cannot be read: a.png \(no known kind of image\); mend or remove them"
    with pytest.raises(SaintpruneError, match=told):
        list(data(folder, num_workers=workers).test_dataloader())


def test_a_grey_image_of_16_bits_keeps_the_upper_8(folder: Path) -> None:
    Image.fromarray(np.full((6, 8), 256 * 100, np.uint16)).save(folder / "a.png")
    write(folder, LINES[:1])
    module = data(folder)
    module.setup()
    _, (image,) = module.test_dataloader().dataset[0]
    assert image.getextrema() == ((100, 100),) * 3


def test_a_model_without_processor_cannot_be_given_questions(folder: Path) -> None:
    module = VQAJsonl(path=str(folder / "questions.jsonl"), processor=None, prompt=str, batch_size=1)
    with pytest.raises(
        SaintpruneError, match=r"no processor.*model.pretrained=true, or task=benchmark dataset=synthetic"
    ):
        module.test_dataloader()
