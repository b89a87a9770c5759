"""How a run is coming on, on a terminal or in a log."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from statistics import fmean, median
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

Line = Mapping[str, Any]
"""A line of ``rounds.jsonl``."""
Listener = Callable[[Line], None]
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


class Board(Protocol):
    """Where runs show how they are coming on."""

    def run(self, title: str, rounds: int) -> AbstractContextManager[Listener]:
        """Show one more run: what is given receives its lines."""

    def say(self, text: str) -> None:
        """Say something beside the runs."""


class SilentBoard:
    """Shows nothing."""

    @contextmanager
    def run(self, title: str, rounds: int) -> Iterator[Listener]:
        """Receive and forget."""
        yield lambda line: None

    def say(self, text: str) -> None:
        """Say nothing."""


class PlainBoard:
    """One line a round, for logs and pipes."""

    def __init__(self, console: Console):
        self._console = console

    @contextmanager
    def run(self, title: str, rounds: int) -> Iterator[Listener]:
        """Write a line when a round is complete."""
        standing = Standing(rounds)

        def hear(line: Line) -> None:
            if standing.hear(line) and not line.get("closing"):
                self.say("  ".join(filter(None, (title, *_words(standing)))))

        yield hear

    def say(self, text: str) -> None:
        """Write a line as it is: a log is no place to wrap."""
        self._console.out(text, highlight=False)


def _words(standing: Standing) -> Iterator[str]:
    yield f"round {standing.round:>{len(str(standing.rounds))}}/{standing.rounds}"
    yield f"{standing.seconds:6.2f} s"
    yield standing.accuracy
    if standing.left:
        yield f"{clock(standing.left)} left"
    if standing.left_out:
        yield f"left out: {', '.join(standing.left_out)}"


class LiveBoard:
    """A bar a run, for terminals. Used as a context: the bars go when it ends."""

    def __init__(self, console: Console):
        self._console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[accuracy]}", markup=False),
            TextColumn("{task.fields[left]}", markup=False, style="dim"),
            console=console,
            transient=True,
            refresh_per_second=4,
        )

    def __enter__(self) -> "LiveBoard":
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    @contextmanager
    def run(self, title: str, rounds: int) -> Iterator[Listener]:
        """Show a bar of rounds with live accuracy and the time that is left."""
        standing = Standing(rounds)
        bar = self._bars.add_task(title, total=rounds, accuracy="", left="starting")

        def hear(line: Line) -> None:
            if standing.hear(line):
                left = f"{clock(standing.left)} left" if standing.left else "finishing"
                self._bars.update(bar, completed=standing.round, accuracy=standing.accuracy, left=left)

        try:
            yield hear
        finally:
            self._bars.remove_task(bar)

    def say(self, text: str) -> None:
        """Write a line above the bars."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def board(console: Console, quiet: bool) -> Iterator[Board]:
    """Return the board that suits: silent when asked for, bars on a terminal, lines elsewhere."""
    if quiet:
        yield SilentBoard()
    elif console.is_terminal:
        with LiveBoard(console) as live:
            yield live
    else:
        yield PlainBoard(console)


class Tail:
    """The lines that another process adds to a file; rounds that are there already are old."""

    def __init__(self, path: Path):
        self._path = path
        self._file = 0
        self._read = 0
        self._old = 0
        self._old = max((line["round"] for line in self.new()), default=0)

    def new(self) -> list[Line]:
        """Return the complete lines since the last look; a file in its place is read from its start."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            number = os.fstat(file.fileno()).st_ino
            if number != self._file:
                self._file, self._read = number, 0
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        lines = (json.loads(line) for line in whole.splitlines())
        return [line for line in lines if line["round"] > self._old]


def clock(seconds: float) -> str:
    """Return a duration as people say it: ``12 s``, ``3:05 min``, ``1:02 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"
