"""Names of stages follow what the tokens do, and a plan finds the blocks of a name."""

from dataclasses import replace

import numpy as np
import pytest

from saintprune.analysis.behaviour import names_of
from saintprune.analysis.descriptions import standardise
from saintprune.analysis.stage_file import Located, locate, read_stages, stages_content, write_stages
from saintprune.analysis.stages import find_stages
from saintprune.analysis.synthetic import planted
from saintprune.errors import SaintpruneError

METRICS = ("neighbour_cosine_centred", "effective_rank_keys_centred", "self_similarity_centred", "attention_entropy")
ENDS = (4, 8, 12)


def behaving(alike, rank, itself, entropy) -> np.ndarray:
    """Curves of 12 layers with one level per segment."""
    return standardise(np.repeat(np.array([alike, rank, itself, entropy], dtype=float), 4, axis=1))


def test_names_follow_behaviour() -> None:
    curves = behaving((0.8, 0.3, 0.7), (10, 60, 20), (0.5, 0.9, 0.9), (0.9, 0.9, 0.4))
    assert names_of(curves, METRICS, ENDS) == ("aligner", "explorer", "aggregator")


def test_names_are_not_given_by_order() -> None:
    most_diverse_last = behaving((0.8, 0.7, 0.2), (10, 20, 60), (0.5, 0.9, 0.9), (0.9, 0.9, 0.4))
    assert names_of(most_diverse_last, METRICS, ENDS) == ("aligner", None, "explorer")
    nothing_gathers = behaving((0.8, 0.3, 0.7), (10, 60, 20), (0.9, 0.5, 0.9), (0.2, 0.4, 0.9))
    assert names_of(nothing_gathers, METRICS, ENDS) == (None, "explorer", None)
    two_alike = behaving((0.3, 0.8, 0.3), (60, 10, 60), (0.5, 0.9, 0.9), (0.9, 0.9, 0.4))
    assert names_of(two_alike, METRICS, ENDS) == (None, None, None)
    assert names_of(behaving((1, 2, 1), (1, 2, 1), (1, 2, 1), (1, 2, 1)), ("a", "b", "c", "d"), ENDS) == (None,) * 3


def test_an_aligner_may_show_by_similarity_that_rises() -> None:
    curves = behaving((0.8, 0.3, 0.7), (10, 60, 20), (0.9, 0.9, 0.9), (0.9, 0.9, 0.4))
    curves[0, :4] += np.linspace(-0.5, 0.5, 4)
    curves[1, :4] -= np.linspace(-0.5, 0.5, 4)
    assert names_of(curves, METRICS, ENDS) == ("aligner", "explorer", "aggregator")


# --- the file that plans read -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def verdict():
    """A verdict of three stages without names."""
    return find_stages(planted(12, 0)[0], draws=39, hurry=True)


def named(verdict, **changes):
    """The verdict with the paper's names."""
    return replace(verdict, part="vision", names=("aligner", "explorer", "aggregator"), **changes)


def test_a_plan_finds_the_blocks_of_a_stage(verdict, tmp_path) -> None:
    verdict = named(verdict)
    content = stages_content([verdict], model="vit_s14", dataset="elpv", split="train", record="outputs/analyze")
    path = write_stages(tmp_path / "stages" / "vit_s14.yaml", content)
    assert path.read_text(encoding="utf-8").startswith("#")
    read = read_stages(path)
    assert read == content
    first, second = verdict.boundaries
    assert locate(read, "aligner") == Located(tuple(range(first)))
    assert locate(read, "explorer") == Located(tuple(range(first, second)))
    assert locate(read, "aggregator") == Located(tuple(range(second, 12)))


def test_image_tokens_decide_in_a_decoder(verdict) -> None:
    verdicts = [replace(named(verdict), part=part) for part in ("language/text-text", "language/vision-vision")]
    content = stages_content(verdicts, model="vlm", dataset="elpv_vqa", split="train", record="x")
    assert locate(content, "aligner", "language").blocks == tuple(range(verdict.boundaries[0]))
    with pytest.raises(SaintpruneError, match="knows language/text-text, language/vision-vision, but not vision"):
        locate(content, "aligner", "vision")


def test_a_stage_that_was_not_found_is_the_best_cut_and_says_so(verdict) -> None:
    first, second = verdict.boundaries
    refused = named(verdict, three_stages=False, reason="no three stages: a smooth drift is a better description")
    content = stages_content([refused], model="vit_s14", dataset="elpv", split="train", record="x")
    assert content["parts"]["vision"]["boundaries"] == {}
    found = locate(content, "explorer")
    assert found.blocks == tuple(range(first, second))
    assert "number 2 of the best three" in found.note and "found no three stages" in found.note
    unnamed = replace(verdict, part="vision", names=(None, None, None))
    found = locate(stages_content([unnamed], model="m", dataset="d", split="train", record="x"), "aligner")
    assert found.blocks == tuple(range(first)) and "no stage that behaves like an aligner" in found.note


def test_what_has_no_stages_is_refused(verdict) -> None:
    content = stages_content([named(verdict)], model="vit_s14", dataset="elpv", split="train", record="x")
    with pytest.raises(SaintpruneError, match=r"'alinger' is no stage \(did you mean 'aligner'\?\)"):
        locate(content, "alinger")
    uncut = named(verdict, boundaries=None, three_stages=False, reason="no three stages: 6 layers are too few")
    with pytest.raises(SaintpruneError, match=r"layers are too few; name blocks instead"):
        locate(stages_content([uncut], model="m", dataset="d", split="train", record="x"), "aligner")


def test_a_file_that_is_none(tmp_path) -> None:
    with pytest.raises(SaintpruneError, match="is missing: run task=analyze"):
        read_stages(tmp_path / "none.yaml")
    for text in ("parts: [1]", "a: [", "3"):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(SaintpruneError, match=r"bad\.yaml"):
            read_stages(tmp_path / "bad.yaml")
