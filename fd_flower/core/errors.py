"""The two ways in which a run can end badly: somebody asked for the wrong thing, or the run failed."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class InvalidInputError(ValueError):
    """What the user asked for cannot be done: the message names what came, what was expected and what to do."""


class RunError(RuntimeError):
    """The run was asked for correctly and could not continue."""


class StateError(RunError):
    """A simulated client's memory is not what it was, so the run cannot continue."""


def reason(error: Exception) -> str:
    """Return the first line of what a library raised; its class where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def nearest(word: str, known: Iterable[str], within: str = "") -> str:
    """``" (did you mean 'rounds'?)"`` where the spelling of a known word is near, else the known words.

    ``within`` goes before the near one: ``server.`` for a key of this section.
    """
    words = sorted(known)
    close = _near(word.lower(), {name.lower(): name for name in words})
    return f" (did you mean '{within}{close}'?)" if close else f" (known: {', '.join(words)})"


def _near(word: str, known: Mapping[str, str]) -> str | None:
    """Return the known word that differs in few letters, begins with the word, or has its letters in another order."""
    close = get_close_matches(word, known, n=1, cutoff=0.7)
    close += [name for name in known if len(word) > 2 and name.startswith(word)]
    close += [name for name in known if sorted(name) == sorted(word)]
    return known[close[0]] if close else None
