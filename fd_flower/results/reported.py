"""Figures that a user's own code reports under names of its own: an app with its own loop, and ``evaluate_fn``."""

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from fd_flower.results.history import SERVER, Track, Tracks, last

CLIENTS = "clients"
WORDS = {CLIENTS: "clients", SERVER: "evaluate_fn"}
"""Whose figures they are, as lines and tables say it."""
MEANING = {
    CLIENTS: "(clients): what the clients' own app reports, its newest figures, mean over clients.",
    SERVER: "(evaluate_fn): what your evaluate_fn returns for the server's model at the end.",
}
INSTEAD = "the clients' app evaluates in its own loop: see 'reported'"
"""Why FD-Flower's accuracy is missing next to such figures."""
HOW = (
    "Before reply, turn.enter('received', accuracy=...) makes an app's figure the personal accuracy of summary, report "
    "and tables; a task with a test set has a global one."
)
NAMED = 4  # of an app's figures in the line that ends a run

Lines = Sequence[Mapping[str, Any]]


def tracks(lines: Lines) -> dict[str, Tracks]:
    """Return such figures over time: by whose code reports them, by name, and by whose model they are of.

    A training loss called ``loss`` is drawn and logged as such, and is none of them.
    """
    found: dict[str, Tracks] = {CLIENTS: {}, SERVER: {}}
    for line in lines:
        when = (line["round"], bool(line.get("closing")))
        own = "client" in line
        whose, who = (CLIENTS, line["client"]) if own else (SERVER, SERVER)
        for name, value in (line["metrics"] if own else line.get("evaluate_fn") or {}).items():
            if isinstance(value, int | float) and not (own and name == "loss"):
                found[whose].setdefault(name, {}).setdefault(who, {})[when] = value
    return found


def summarize(lines: Lines) -> dict[str, dict[str, dict[str, float]]]:
    """Return by whose code and by name the newest figures: their mean, and of clients their deviation."""
    return {whose: {name: _end(of) for name, of in named.items()} for whose, named in tracks(lines).items() if named}


def _end(of: Mapping[str, Track]) -> dict[str, float]:
    newest = [last(track) for track in of.values()]
    return {"final": fmean(newest)} | ({} if SERVER in of else {"std": pstdev(newest)})


def outcome(summary: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return such figures in a few words each, and what these are."""
    words, meanings = [], []
    for whose, named in (summary.get("reported") or {}).items():
        words += [f"{name} {of['final']:.3f} ({WORDS[whose]})" for name, of in list(named.items())[:NAMED]]
        meanings.append(MEANING[whose])
    return words, meanings
