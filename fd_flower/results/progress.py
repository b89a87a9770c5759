"""What the lines so far say of a run: its round, its newest figure, the time that is left."""

from collections.abc import Mapping
from statistics import fmean, median
from typing import Any

Line = Mapping[str, Any]
"""A line of ``rounds.jsonl``."""
Headline = tuple[str, float]
"""A figure and its name."""
HEADLINES = {"accuracy": "{:.1%}", "own/ndcg@10": "nDCG@10 {:.3f}", "unseen/ndcg@10": "unseen nDCG@10 {:.3f}"}
"""The figures that a run may be about, and how they read."""


class Standing:
    """What the lines so far say of a run: its round, its newest accuracy, the time that is left."""

    def __init__(self, rounds: int):
        self.rounds = rounds
        self.round = 0
        self.left_out: list[str] = []
        self._seconds: list[float] = []
        self._awaited: set[str] | None = None
        self._server: Headline | None = None
        self._clients: dict[str, Headline] = {}
        self._measured = 0

    def hear(self, line: Line) -> bool:
        """Take one more line in; whether the round is complete: its own line and one of every client that replied."""
        self.round = line["round"]
        if "client" in line:
            self._hear_client(line)
        else:
            self._awaited = set(line.get("replied") or ())
            self.left_out = list(line.get("failed") or ())
            self._server = _headline(line.get("global") or {}) or self._server
            if not line.get("closing"):
                self._seconds.append(line.get("seconds") or 0.0)
        return self._awaited == set()

    def _hear_client(self, line: Line) -> None:
        if self._awaited:
            self._awaited.discard(line["client"])
        figure = _last_headline(line)
        if figure is not None:
            if line["round"] != self._measured:
                self._measured, self._clients = line["round"], {}
            self._clients[line["client"]] = figure

    @property
    def accuracy(self) -> str:
        """The server's figure where it has a model, else the mean over clients; empty before either is known."""
        if self._server is not None:
            return f"global {_told(*self._server)}"
        if not self._clients:
            return ""
        names, figures = zip(*self._clients.values(), strict=True)
        return f"personal {_told(names[0], fmean(figures))}"

    @property
    def seconds(self) -> float:
        """How long the last round took."""
        return self._seconds[-1] if self._seconds else 0.0

    @property
    def left(self) -> float:
        """The seconds that the remaining rounds take if they are like the usual one so far."""
        return median(self._seconds) * (self.rounds - self.round) if self._seconds else 0.0


def _last_headline(line: Line) -> Headline | None:
    """Return a client's figure at the last of the moments that its line has."""
    found = [_headline(figures) for figures in (line.get("evaluations") or {}).values()]
    return next((figure for figure in reversed(found) if figure is not None), None)


def _headline(figures: Mapping[str, Any]) -> Headline | None:
    """Return the figure that a run is about: accuracy, or a retriever's nDCG@10."""
    return next(((name, figures[name]) for name in HEADLINES if figures.get(name) is not None), None)


def _told(name: str, figure: float) -> str:
    return HEADLINES[name].format(figure)


def clock(seconds: float) -> str:
    """Return a duration as people say it: ``12 s``, ``3:05 min``, ``1:02 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"


def duration(seconds: float) -> str:
    """Return what a prediction of seconds is good for: ``4.2 s``, ``12 min``, ``79 h``."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"
