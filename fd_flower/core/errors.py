"""The two ways in which a run can end badly: somebody asked for the wrong thing, or the run failed."""

from collections.abc import Iterable
from difflib import get_close_matches


class InvalidInputError(ValueError):
    """What the user asked for cannot be done: the message names what came, what was expected and what to do."""


class RunError(RuntimeError):
    """The run was asked for correctly and could not go on."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``" (did you mean 'rounds'?)"`` where a known word is near, else the known words."""
    words = sorted(known)
    close = get_close_matches(word, words, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else f" (known: {', '.join(words)})"
