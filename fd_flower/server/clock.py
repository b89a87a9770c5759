"""Virtual time: how long simulated clients' turns take, and whose replies a round gets.

FedFix (Fraboni et al. 2023) aggregates in windows of fixed length; FedBuff (Nguyen et al. 2022, arXiv 2106.06639) after
a number of replies.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import final

from fd_flower.config import Settings
from fd_flower.core.client import Client, natural
from fd_flower.core.rng import numpy_rng
from fd_flower.training.loop import length, plan_of

CLOSE = 1e-9
"""Part of a window by which a reply may miss its end: sums of floats are not exact."""


@dataclass(frozen=True)
class Flight:
    """A client's turn that is under way.

    Attributes
    ----------
    client : str
        Whose.
    version : int
        The round whose message the client has.
    due : float
        Virtual second at which its reply arrives; infinite in real time, where it arrives when it does.
    """

    client: str
    version: int
    due: float = math.inf


@final
class Clock:
    """A simulation's virtual time, which depends on settings and clients alone.

    Parameters
    ----------
    settings : Settings
        The run.
    clients : Sequence[Client]
        All clients, whose ``examples`` say how many local steps a turn has.

    Attributes
    ----------
    now : float
        Virtual seconds since the run began.
    """

    def __init__(self, settings: Settings, clients: Sequence[Client]) -> None:
        self._window = settings.server.window or 0.0
        self._buffer = settings.server.buffer or 0
        self._seconds = {client.id: seconds_of(settings, client) for client in clients}
        self._arrive = _ARRIVE[settings.server.clock]
        self.now = 0.0

    def ask(self, client: str, number: int) -> Flight:
        """Return the turn of a client that is asked now, at the beginning of a round."""
        return Flight(client, number, self.now + self._seconds[client])

    def arrivals(self, flights: Iterable[Flight], number: int) -> list[Flight]:
        """Return whose replies arrive in this round, in the order of their arrival, and move on to its end."""
        waiting = sorted(flights, key=lambda flight: (flight.due, natural(flight.client)))
        return self._arrive(self, waiting, number)

    def _all(self, waiting: list[Flight], number: int) -> list[Flight]:
        """Wait for all, with ``rounds``."""
        self.now = max([self.now, *(flight.due for flight in waiting)])
        return waiting

    def _in_window(self, waiting: list[Flight], number: int) -> list[Flight]:
        """Take what arrives until the window's end, with ``window``."""
        self.now = number * self._window
        return [flight for flight in waiting if flight.due <= self.now + CLOSE * self._window]

    def _first(self, waiting: list[Flight], number: int) -> list[Flight]:
        """Wait for so many, with ``count``; of those that arrive together take the first in natural order."""
        first = waiting[: self._buffer]
        self.now = max([self.now, *(flight.due for flight in first)])
        return first


_ARRIVE: dict[str, Callable[[Clock, list[Flight], int], list[Flight]]] = {
    "rounds": Clock._all,
    "window": Clock._in_window,
    "count": Clock._first,
}


def seconds_of(settings: Settings, client: Client) -> float:
    """Return how many virtual seconds a client's turn takes: its seconds per step times its steps of local training.

    Seconds per step are ``server.step_seconds``, times a lognormal number with median 1 that is drawn for each client
    with ``run.seed``. Steps on public samples take no virtual time. An app with a loop of its own is taken to have
    ``client.steps``.
    """
    server, base = settings.server, settings.server.step_seconds
    step = float(base[client.number % len(base)] if isinstance(base, list | tuple) else base)
    if server.speed_spread:
        drawn = numpy_rng(settings.run.seed, "speed", client.id, 0).standard_normal()
        step *= math.exp(server.speed_spread * float(drawn))
    plan = plan_of(settings.client, 1.0, settings.run.precision)
    return step * (plan.steps if client.own_loop and plan.steps is not None else length(client.examples, plan))
