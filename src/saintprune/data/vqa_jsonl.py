"""Questions about local images, one JSON object per line.

    {"image": "cat.png", "question": "How many cats are there?", "answers": ["2", "two"]}
    {"image": ["a.png", "b.png"], "question": "Which is darker?", "answer": "b", "candidates": ["a", "b"]}

``image`` is a path relative to the file, or a list of them (empty for a question about text alone); ``answer`` or
``answers`` must be there; ``candidates`` and ``kind`` may be.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from saintprune.data.sampling import stratified_sample
from saintprune.data.vqa import VQAData, VQASample, VQASamples, mixed_samples
from saintprune.errors import SaintpruneError, did_you_mean


class VQAJsonl(VQAData):
    """The questions of one file, and for calibration those of another."""

    def __init__(
        self,
        *,
        path: str | None = None,
        train_path: str | None = None,
        name: str = "vqa_jsonl",
        licence: str | None = None,
        **settings: Any,
    ) -> None:
        """Keep the settings.

        Args:
            path: File of the test questions.
            train_path: File of the training questions; only calibration needs it.
            name: The name in records.
            licence: The licence in records.
            **settings: See `VQAData`; ``limit`` counts questions, spread evenly over their kinds.
        """
        super().__init__(**settings)
        self.path = path
        self.train_path = train_path
        self.name = name
        self.licence = licence

    def test_split(self) -> VQASamples:
        """Return the test questions, or `limit` of them."""
        return self._split("path", self.path, self.limit)

    def train_split(self) -> VQASamples:
        """Return the training questions."""
        return self._split("train_path", self.train_path, None)

    def _split(self, key: str, path: str | None, limit: int | None) -> VQASamples:
        if path is None:
            raise SaintpruneError(f"dataset.{key} is not set: give a JSONL file of questions, one object per line")
        file = Path(path)
        samples = read_samples(file, key)
        if limit is not None:
            chosen = stratified_sample([sample.kind for sample in samples], [sample.name for sample in samples], limit)
            samples = [samples[index] for index in chosen]
        return VQASamples(file.parent, mixed_samples(samples))


def read_samples(file: Path, key: str = "path") -> list[VQASample]:
    """Return the questions of a JSONL file in its order; empty lines are passed over.

    Args:
        file: The file.
        key: The config key that named it, for the errors.

    Raises:
        SaintpruneError: If there is no such file or question, a line is malformed, or an image is missing.
    """
    if not file.is_file():
        raise SaintpruneError(f"dataset.{key}: there is no file {file} (relative to {Path.cwd()})")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise SaintpruneError(f"dataset.{key} {file} is not a text file in UTF-8: {error}") from None
    samples = [
        _sample(line, f"{file}, line {number}", number, file.parent)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not samples:
        raise SaintpruneError(f"dataset.{key} {file} holds no questions: expected one JSON object per line")
    return samples


def _sample(line: str, where: str, number: int, root: Path) -> VQASample:
    """Return the question on one line; keys that are not known, such as an id, are left alone."""
    try:
        content = json.loads(line)
    except ValueError as error:
        raise SaintpruneError(f"{where} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise SaintpruneError(f'{where} is not an object: expected {{"image": ..., "question": ..., "answers": [...]}}')
    images = _strings(content, "image", where)
    question = content.get("question")
    if not isinstance(question, str) or not question.strip():
        raise _wrong(content, "question", where, "a string")
    answers = _strings(content, "answers" if "answers" in content else "answer", where)
    if not answers:
        raise SaintpruneError(f"{where}: the list of answers is empty")
    candidates = _strings(content, "candidates", where) if content.get("candidates") is not None else None
    if candidates is not None and not set(answers) & set(candidates):
        raise SaintpruneError(f"{where}: none of the answers ({', '.join(answers)}) is among the candidates")
    missing = next((name for name in images if not (root / name).is_file()), None)
    if missing is not None:
        raise SaintpruneError(f"{where}: there is no image {root / missing}")
    kind = str(content.get("kind", "question"))
    return VQASample(f"{number} {question}", images, question, answers, candidates, kind)


def _strings(content: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    """Return the string or the list of strings under a key as a tuple."""
    value = content.get(key)
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong(content, key, where, "a string or a list of strings")
    return tuple(value)


def _wrong(content: dict[str, Any], key: str, where: str, expected: str) -> SaintpruneError:
    if key in content:
        return SaintpruneError(f"{where}: {key!r} must be {expected}, not {content[key]!r}")
    return SaintpruneError(f"{where} has no {key!r}{did_you_mean(key, content)}; see conf/dataset/vqa_jsonl.yaml")
