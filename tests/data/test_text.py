"""Passages of text: their length, their splits, and what cannot be read."""

import pytest
import torch

import tiny_vlm
from saintprune.data.text import TextData
from saintprune.errors import SaintpruneError


def data(path=None, **settings):
    return TextData(tokenizer=tiny_vlm.tokenizer(), path=None if path is None else str(path), **settings)


def test_passages_are_dealt_to_the_splits(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(chr(97 + number // 10) for number in range(205)))
    found = data(path, tokens=10, batch_size=3, licence="mine")
    test, train = (torch.cat([batch["input_ids"] for batch in loader]) for loader in (
        found.test_dataloader(), found.train_dataloader()))  # fmt: skip
    assert test.shape == (5, 10) and train.shape == (15, 10), "what is left of a passage is left out"
    assert all(len(set(row)) == 1 for row in torch.cat([test, train]).tolist()), "passages follow each other"
    assert len(set(torch.cat([test, train])[:, 0].tolist())) == 20, "each is in one split, once"
    assert torch.equal(test, torch.cat([batch["input_ids"] for batch in data(path, tokens=10).test_dataloader()]))
    batch = next(iter(found.test_dataloader()))
    assert batch["attention_mask"].tolist() == [[1] * 10] * 3 and found.licence == "mine"
    assert len(data(path, tokens=10, limit=2).test_split()) == 2


def test_python_ships_a_text():
    found = data(tokens=64, limit=4)
    assert len(found.test_split()) == 4 and len(found.train_split()) > 256
    assert found.licence == "PSF-2.0" and len(found.sha256) == 64


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(SaintpruneError, match=r"none\.txt cannot be read as UTF-8 text"):
        data(tmp_path / "none.txt").setup()
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(SaintpruneError, match=r"bytes\.txt cannot be read as UTF-8 text"):
        data(tmp_path / "bytes.txt").setup()
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(SaintpruneError, match="has 9 tokens, but 4 passages of 256 are the least"):
        data(tmp_path / "short.txt").setup()
    with pytest.raises(SaintpruneError, match=r"dataset\.tokens is 4; give 8 or more"):
        data(tokens=4)
