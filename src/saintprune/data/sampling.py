"""Fixed, fair orders and samples that depend on names alone, never on a random generator's version."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence


def name_hash(name: str) -> str:
    """Return the SHA-256 of a name as hex: a random-looking sort key that never changes."""
    return hashlib.sha256(name.encode()).hexdigest()


def mixed_order(names: Sequence[str]) -> list[int]:
    """Return the indices of `names` in their mixed order (sorted by `name_hash`)."""
    return sorted(range(len(names)), key=lambda index: name_hash(names[index]))


def spread(total: int, count: int) -> list[int]:
    """Return `count` positions spread evenly over 0..total-1 (systematic sampling), all of them if fewer exist.

    A run of k neighbours contributes floor or ceil of ``k * count / total``: sorted strata are sampled in proportion.
    """
    count = min(count, total)
    return [(2 * index + 1) * total // (2 * count) for index in range(count)]


def stratified_sample(strata: Sequence[Hashable], names: Sequence[str], count: int) -> list[int]:
    """Return `count` indices, in proportion from every stratum, as increasing numbers.

    Args:
        strata: One sortable key per sample.
        names: One name per sample; within a stratum the choice follows `name_hash`.
        count: How many to take; all if there are fewer.
    """
    ranked = sorted(range(len(names)), key=lambda index: (str(strata[index]), name_hash(names[index])))
    return sorted(ranked[position] for position in spread(len(ranked), count))
