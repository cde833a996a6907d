"""Right or wrong, for answers in words: exact match after the clean-up that VQA's evaluation made customary."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_NUMBERS = {"none": "0", **{word: str(number) for number, word in enumerate(_WORDS)}}
_ARTICLES = {"a", "an", "the"}


def normalised(text: str) -> str:
    """Return an answer as it is compared: lower case, digits for numbers, without articles and punctuation.

    A decimal point and the comma between two digits ("1,000") belong to their number: the point stays, the comma goes.
    Apostrophes go, so that "don't" equals "dont". An answer that is nothing but an article ("A") stays.
    """
    text = re.sub(r"(?<=\d),(?=\d)", "", text.lower().replace("'", "").replace("’", ""))
    text = re.sub(r"(?<!\d)\.|\.(?!\d)", " ", text)
    words = re.sub(r"[^\w.]|_", " ", text).split()
    telling = [word for word in words if word not in _ARTICLES] or words
    return " ".join(_NUMBERS.get(word, word) for word in telling)


def exact_match(answer: str, accepted: Sequence[str]) -> bool:
    """Return whether an answer equals one of the accepted ones, after `normalised`."""
    return normalised(answer) in {normalised(other) for other in accepted}
