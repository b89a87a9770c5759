"""What a run logs of itself: a line a round, and what it came to."""

from collections.abc import Mapping, Sequence
from logging import INFO
from statistics import fmean
from typing import Any

from flwr.app import MetricRecord

from fd_flower.core.flower import log
from fd_flower.results import RunFolder
from fd_flower.results.outcome import ending
from fd_flower.results.progress import Standing

UNWRITTEN = "nothing was written: run=Run(out='/an/absolute/folder') leaves a report, a checkpoint and the models there"
NAMED = 4  # of an app's own metrics in a round's line


def log_round(number: int, last: int, lines: Sequence[Mapping[str, Any]], own: MetricRecord | None) -> None:
    """Log a round in one line.

    Parameters
    ----------
    number, last : int
        The round, and the last one of the run.
    lines : Sequence[Mapping[str, Any]]
        The round's lines of ``rounds.jsonl``; what the closing message evaluates is not the round's.
    own : MetricRecord | None
        What the user's own ``evaluate_fn`` says of the server's model.
    """
    standing = Standing(last)
    for line in lines:
        if not line.get("closing"):
            standing.hear(line)
    first, loss = lines[0], lines[0]["metrics"].get("loss")
    words = [
        _who(first),
        standing.accuracy,
        "" if loss is None else f"loss {_plain(loss)}",
        *([] if standing.accuracy or own else _measured(lines)),
        *(f"{name} {_plain(value)} (evaluate_fn)" for name, value in (own or {}).items()),
        f"{first['seconds']:.1f} s",
        f"virtual time {first['virtual_seconds']:,.1f} s" if "virtual_seconds" in first else "",
    ]
    log(INFO, "round %s of %s: %s", number, last, ", ".join(filter(None, words)))


def _who(first: Mapping[str, Any]) -> str:
    """Return how many replies a round has, and of how many, or how many are still under way."""
    came = len(first["replied"])
    if "under_way" not in first:
        return f"{came} of {len(first['asked'])} clients"
    return f"{came or 'no'} {'reply' if came < 2 else 'replies'}, {len(first['under_way'])} under way"


def _measured(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the clients' app says of its own loop, where it is all that is known: means over clients."""
    found: dict[str, list[float]] = {}
    for line in lines:
        for name, value in (line["metrics"] if "client" in line else {}).items():
            if isinstance(value, int | float) and name not in ("loss", "num-examples"):
                found.setdefault(name, []).append(value)
    return [f"{name} {_plain(fmean(values))} (clients)" for name, values in list(found.items())[:NAMED]]


def log_end(folder: RunFolder | None, rounds: int, seconds: float) -> None:
    """Log what a run came to; ``folder`` is where it is, if anywhere, ``rounds`` those that were played now."""
    log(INFO, "%s rounds in %.1f s", rounds, seconds)
    for line in ending(folder) if folder is not None else (UNWRITTEN,):
        log(INFO, "%s", line)


def _plain(value: object) -> str:
    """Return a number as people write it: three places, and no power of ten however small it is."""
    return f"{value:,.3f}" if isinstance(value, float) else str(value)
