"""``fd-flower estimate``: what a run would send and take, from a few of its rounds with short loops."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import fmean
from time import process_time
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from fd_flower.cli import paths
from fd_flower.cli.run import words_of
from fd_flower.config import Settings, settings
from fd_flower.core.budget import short
from fd_flower.core.errors import InvalidInputError
from fd_flower.results.page import NOTHING, megabytes
from fd_flower.results.progress import duration
from fd_flower.wire.traffic import numbers_counted

COMPRESSED = (
    "How far an update is compressed depends on what training makes of it: these are bounds. A run logs what was sent: "
    "numbers_up (mean of the clients) and numbers_down (each client), in the diagnostics of rounds.jsonl."
)


@dataclass(frozen=True)
class Estimate:
    """What a run comes to, extrapolated.

    Attributes
    ----------
    rounds : int
        Rounds of the run.
    up, down : list[int]
        Bytes of the rounds that were played.
    seconds : list[float]
        CPU seconds of these rounds, measuring left out.
    measuring : float
        CPU seconds of one measurement.
    measurements : int
        How often the run measures.
    closing : float
        CPU seconds of what follows the last round.
    numbers : Mapping[str, Mapping[str, int]]
        Direction -> kind and field -> floating-point numbers in a round, the last one that was run; empty where they
        were not asked for.
    most : Mapping[str, int]
        Kind and field of what is compressed by what training makes of it -> the most that it can be, either way.
    """

    rounds: int
    up: list[int]
    down: list[int]
    seconds: list[float]
    measuring: float
    measurements: int
    closing: float
    numbers: Mapping[str, Mapping[str, int]]
    most: Mapping[str, int] = field(default_factory=dict)

    def whole(self, played: Sequence[float]) -> float:
        """Return the sum over all rounds: those that were not played are like the mean of those after the first."""
        left = self.rounds - len(played)
        return sum(played) + (left * fmean(played[1:]) if left else 0)

    @property
    def total(self) -> float:
        """CPU seconds of the run."""
        return self.whole(self.seconds) + self.judging

    @property
    def judging(self) -> float:
        """CPU seconds of all measurements."""
        return self.measurements * self.measuring + self.closing


def show(
    method: str,
    changes: Sequence[str],
    recipe: str | None,
    task: str,
    rounds: int,
    steps: int,
    console: Console,
    *,
    numbers: bool,
) -> None:
    """Print what a run would send and take.

    Parameters
    ----------
    method, changes, recipe, task
        As of ``fd-flower run``.
    rounds : int
        Rounds to run, at least 3.
    steps : int
        Steps of each loop of training that are taken, at least 2.
    numbers : bool
        Whether to print how many numbers a round takes, by payload, in addition to bytes.

    Raises
    ------
    InvalidInputError
        For anything that no run can be made of.
    """
    chosen = settings(method, words_of(changes, recipe), task=task)
    if chosen.run.resume:
        raise InvalidInputError("a resumed run cannot be estimated: leave out run.resume")
    logging.getLogger("flwr").setLevel(logging.WARNING)
    found = estimated(chosen, rounds, steps, numbers=numbers)
    console.print(table(found))
    if numbers:
        console.print(of_numbers(found))
        if found.most:
            console.print(COMPRESSED, markup=False, highlight=False, style="dim")
    first = f"{chosen.data.clients} clients, {chosen.server.rounds} rounds: from {len(found.seconds)} rounds whose "
    note = (
        f"{first}loops of training took {steps} steps at most. CPU seconds are of one thread of this machine, for all "
        "clients and the server; the first round includes reading the data. A loop that would end on its own counts in "
        "full, and later rounds may send and take something else where a method's rounds are not alike (--rounds)."
    )
    console.print(note, markup=False, highlight=False, style="dim")


def estimated(chosen: Settings, rounds: int, steps: int, *, numbers: bool = False) -> Estimate:
    """Play the first rounds of a run with short loops, write nothing, and return what the whole would come to."""
    from fd_flower import engine

    server, limit = chosen.server, min(rounds, chosen.server.rounds)
    # Measured once, after the last round, so that the other rounds show the cost without evaluation.
    brief = replace(server, rounds=limit, evaluate_every=0, patience=0, min_delta=0.0)
    played = replace(chosen, server=brief, run=replace(chosen.run, out=None, track=None))
    marks: list[float] = []
    lines: list[dict[str, Any]] = []
    paths.look_here(paths.modules_of(chosen))
    with short(steps) as budget, numbers_counted() if numbers else nullcontext():
        marks.append(process_time() + budget.saved)

        def hear(line: dict[str, Any]) -> None:
            if "client" not in line:
                lines.append(line)
                marks.append(process_time() + budget.saved)

        engine.run(played, on_line=hear)
        end = process_time() + budget.saved
    kept = [line for line in lines if not line.get("closing")]
    seconds = [after - before for before, after in pairwise(marks[: len(kept) + 1])]
    measuring = 0.0
    if len(seconds) > 2:  # the last round is like the one before it, and measures
        measuring = max(seconds[-1] - seconds[-2], 0.0)
        seconds[-1] -= measuring
    every = server.evaluate_every
    due = 1 + (sum(1 for number in range(1, server.rounds) if number % every == 0) if every else 0)
    up, down = ([sum(line["bytes"][way].values()) for line in kept] for way in ("up", "down"))
    counted = kept[-1].get("numbers", {})
    most = _bounds(kept[0].get("numbers", {}), counted)
    return Estimate(server.rounds, up, down, seconds, measuring, due, end - marks[len(kept)], counted, most)


def _bounds(first: Mapping[str, Mapping[str, int]], later: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Return the most numbers of each field of an update: those of the weights that went out in round one."""
    weights = first.get("down", {})
    fields = {name for table in later.values() for name in table if name.startswith("update.")}
    return {name: weights.get(name.replace("update.values", "arrays"), 0) for name in fields}


def table(found: Estimate) -> Table:
    """Return the estimate for the terminal."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "round 1", "a later round", f"all {found.rounds} rounds"):
        shown.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for name, played in (("MB up", found.up), ("MB down", found.down)):
        later = megabytes(fmean(played[1:])) if len(played) > 1 else None
        shown.add_row(name, megabytes(played[0]), later, megabytes(found.whole(played)))
    later = duration(fmean(found.seconds[1:])) if len(found.seconds) > 1 else None
    shown.add_row("CPU time", duration(found.seconds[0]), later, duration(found.total))
    shown.add_row("  of it measuring", None, None, duration(found.judging))
    return shown


def of_numbers(found: Estimate) -> Table:
    """Return how many floating-point numbers a later round takes, over all clients, by payload and field."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("numbers in a later round, all clients", "up", "down"):
        shown.add_column(column, justify="right" if len(column) < 5 else "left", no_wrap=True)
    for name in sorted({name for table in found.numbers.values() for name in table}):
        counts = [found.numbers.get(way, {}).get(name) for way in ("up", "down")]
        most = f"at most {found.most[name]:,}" if name in found.most else None
        shown.add_row(name, *(NOTHING if count is None else most or f"{count:,}" for count in counts))
    return shown
