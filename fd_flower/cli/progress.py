"""How a run is coming on, on a terminal or in a log."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Column

from fd_flower.results.progress import Line, Standing, clock

Listener = Callable[[Line], None]


class Board(Protocol):
    """Where runs show how they are coming on."""

    def run(self, title: str, rounds: int) -> AbstractContextManager[Listener]:
        """Show one more run: what is given receives its lines."""

    def say(self, text: str) -> None:
        """Print a line between the runs' lines."""


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
        """Write a line without wrapping it, for a log."""
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
            BarColumn(bar_width=None, table_column=Column(ratio=1)),  # what the others leave: no figure is cut off
            MofNCompleteColumn(),
            TextColumn("{task.fields[accuracy]}", markup=False),
            TextColumn("{task.fields[left]}", markup=False, style="dim"),
            console=console,
            expand=True,
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
        name = _within(title, self._console.width // 4)
        bar = self._bars.add_task(name, total=rounds, accuracy="", left="starting")

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
        told(self._console, text)


def _within(title: str, room: int) -> str:
    """Return a title in so many letters, without its middle where it is longer: a run's seed stands at its end."""
    if len(title) <= room:
        return title
    return f"{title[: (room - 1) // 2]}…{title[len(title) - room // 2 :]}"


def told(console: Console, text: str) -> None:
    """Write a line: broken between words on a terminal, never within a figure or a path, and whole elsewhere."""
    whole = not console.is_terminal
    console.print(text, markup=False, highlight=False, soft_wrap=whole, overflow="ignore", crop=False)


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
