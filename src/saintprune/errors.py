"""The one exception that means "the user can mend this"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SaintpruneError(Exception):
    """A mistake in a config, a path, a file or a plan; the message says what, where and what next.

    The command line prints the message alone, without a traceback, and exits with a code other than 0.
    """


class NotForThisModelError(SaintpruneError):
    """A pruning for another kind of model. A sweep over all prunings leaves it out and does not fail."""


def one_line(error: Exception) -> str:
    """Return what an exception says, in one line; of those that are no mistake of the user's, also their kind."""
    said = next(iter(str(error).strip().splitlines()), "no message")
    return said if isinstance(error, SaintpruneError) else f"{type(error).__name__}: {said}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
