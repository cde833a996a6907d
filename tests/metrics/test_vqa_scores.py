"""Answers in words, compared as VQA's evaluation does."""

import pytest

from saintprune.metrics.vqa_scores import exact_match, normalised


@pytest.mark.parametrize(
    ("answer", "same"),
    [
        ("Yes.", "yes"),
        ("  the Cat,\na dog! ", "cat dog"),
        ("1,000.50", "1000.50"),
        ("3.", "three"),
        ("none", "0"),
        ("don't", "dont"),
        ("mono-crystalline_cell", "mono crystalline cell"),
        ("A", "a"),
        ("The answer", "answer"),
        ("", " . "),
    ],
)
def test_same(answer, same):
    assert normalised(answer) == normalised(same)
    assert exact_match(answer, ["something else", same])


@pytest.mark.parametrize(("answer", "other"), [("0.5", "05"), ("yes no", "yes"), ("A", ""), ("no one", "no")])
def test_different(answer, other):
    assert not exact_match(answer, [other])
