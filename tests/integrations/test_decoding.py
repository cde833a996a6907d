"""What tasks say about generation, and what transformers is told."""

import pytest

from saintprune.errors import SaintpruneError
from saintprune.integrations.decoding import Decoding


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Decoding()),
        ({"max_new_tokens": 16, "until": "\n", "image_aspect_ratio": "original"}, Decoding(16, ("\n",))),
        ({"until": ["\n\n", "", "Q:"], "temperature": 0, "do_sample": False}, Decoding(until=("\n\n", "Q:"))),
        ({"temperature": 0.2, "top_p": 0.9}, Decoding(temperature=0.2, top_p=0.9)),
        ({"do_sample": True}, Decoding(temperature=1.0)),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.9}, Decoding()),
        ({"do_sample": True, "temperature": 0}, Decoding()),
        ({"num_beams": 3, "max_gen_toks": 8}, Decoding(8, beams=3)),
        ({"until": None, "temperature": None, "top_p": None, "num_beams": None, "max_new_tokens": None}, Decoding()),
    ],
)
def test_settings_of_a_task(settings, expected) -> None:
    assert Decoding.parse(settings) == expected


def test_until_of_another_kind_is_one_clear_line() -> None:
    with pytest.raises(SaintpruneError, match=r"^generation_kwargs.until is 3, but must be a string or a list"):
        Decoding.parse({"until": 3})


def test_an_answer_ends_before_the_first_of_until() -> None:
    assert Decoding(until=("\n\n", "Q:")).cut("yes Q: and\n\nno") == "yes "
    assert Decoding(until=("\n\n",)).cut("yes") == "yes"
    assert Decoding().cut("yes\n\n") == "yes\n\n"
