"""Replies under way: whose, to which round's message, and what a round makes of those that arrive late.

In simulation a client's turn is computed when its reply arrives, in virtual time, so that a checkpoint holds who is
under way and what each round's message held, and no messages.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, final

import torch
from flwr.app import Message
from torch import Tensor

from fd_flower.core.client import Client, natural
from fd_flower.server.clock import Clock, Flight
from fd_flower.server.guard import Guard
from fd_flower.server.host_grid import HostGrid
from fd_flower.server.lines import RoundLines
from fd_flower.server.method import Method
from fd_flower.server.staleness import weight_of
from fd_flower.wire import Knowledge, Payload
from fd_flower.wire.replies import Reply


@dataclass(frozen=True)
class Version:
    """What the messages of a round hold: the server's state, and the public samples [N] that the round is about."""

    number: int
    knowledge: Knowledge
    index: Tensor


@final
class InFlight:
    """The turns under way of a run whose rounds do not wait for all replies.

    Parameters
    ----------
    method : Method
        Whose run it is.
    host : HostGrid
        Its clients.
    guard : Guard
        Checks replies.
    lines : RoundLines
        Those of the round.
    clock : Clock | None
        Virtual time; None: clients are devices, and their replies arrive in real time.

    Attributes
    ----------
    flights : dict[str, Flight]
        Client -> its turn under way.
    versions : dict[int, Version]
        What they have, once for each round.
    """

    def __init__(
        self, method: Method[Any], host: HostGrid, guard: Guard, lines: RoundLines, clock: Clock | None
    ) -> None:
        self._method = method
        self._host = host
        self._guard = guard
        self._lines = lines
        self._clock = clock
        self._arriving: dict[str, Flight] = {}
        self.flights: dict[str, Flight] = {}
        self.versions: dict[int, Version] = {}

    @property
    def ids(self) -> list[str]:
        """Who is under way, in natural order."""
        return sorted(self.flights, key=natural)

    def punctual(self, replies: Iterable[Reply]) -> bool:
        """Whether these are all that is under way and none is late, so that a sum of them will do as in ``rounds``."""
        return not self.flights and not any(reply.late for reply in replies)

    def free(self, clients: Iterable[Client]) -> list[Client]:
        """Return which of these clients can be asked."""
        return [client for client in clients if client.id not in self.flights]

    def depart(self, number: int, asked: Sequence[Client]) -> list[tuple[Version, list[Client]]]:
        """Begin the turns of clients that a round asks; return who is sent what.

        In virtual time these are the clients whose replies arrive in this round, whenever they were asked; in real time
        those that are asked.
        """
        if asked:
            self.versions[number] = Version(number, self._method.knowledge, self._method.round_index)
        for client in asked:
            self.flights[client.id] = (
                Flight(client.id, number) if self._clock is None else self._clock.ask(client.id, number)
            )
        if self._clock is None:
            return [(self.versions[number], list(asked))] if asked else []
        self._land(self._clock.arrivals(self.flights.values(), number))
        return [(self.versions[version], clients) for version, clients in self._by_version(self._arriving)]

    def exchange(self, messages: Sequence[Message], timeout: float) -> list[Message]:
        """Send messages, and return the replies that arrive in the round."""
        server = self._method.config
        if self._clock is not None:
            return self._host.exchange(messages, timeout=timeout)
        seconds = timeout if server.grace is None or server.clock == "count" else min(timeout, server.grace)
        came = self._host.collect(messages, most=server.buffer, timeout=seconds)
        senders = {self._host.client(message.metadata.src_node_id).id for message in came}
        self._land([flight for flight in self.flights.values() if flight.client in senders])
        return came

    def arrived(self, came: Iterable[Message], number: int, kinds: Sequence[type[Payload]]) -> list[Reply]:
        """Return the usable replies of a round, sorted by client; none where others are still under way.

        From here on the round is about the public samples of all of them.

        Raises
        ------
        RunError
            Where there is none, and none is under way.
        """
        usable = self._read(came, number, kinds)
        if any(reply.late for reply in usable):
            indices = {reply.late: self.versions[number - reply.late].index for reply in usable}
            self._method.round_index = torch.cat([*indices.values()]).unique()
        if self._method.config.staleness == "fedfix":
            self._method.waiting_examples = sum(c.examples for c in self._host.clients if c.id in self.flights)
        used = {flight.version for flight in self.flights.values()}
        self.versions = {version: held for version, held in self.versions.items() if version in used}
        self._lines.awaited, self._lines.under_way = list(self._arriving), self.ids
        self._lines.virtual = None if self._clock is None else self._clock.now
        if not self.flights:
            self._guard.need_some(usable, number)
        return usable

    def _read(self, came: Iterable[Message], number: int, kinds: Sequence[type[Payload]]) -> list[Reply]:
        """Return the usable replies, each checked against what its own round was about."""
        messages = {self._host.client(message.metadata.src_node_id).id: message for message in came}
        usable: list[Reply] = []
        expected = {who: flight for who, flight in self._arriving.items() if who in messages}
        for version, clients in self._by_version(expected):
            sent, late = self.versions[version], number - version
            own = [messages[client.id] for client in clients]
            weight, started = weight_of(self._method.config.staleness, late), sent.knowledge if late else None
            usable += [
                replace(reply, late=late, weight=weight, started=started)
                for reply in self._guard.read(own, number, kinds, index=sent.index)
            ]
        return sorted(usable, key=lambda reply: natural(reply.client.id))

    def restore(self, flights: Iterable[Flight], versions: Mapping[int, Knowledge]) -> None:
        """Take up what a checkpoint says was under way."""
        self.flights = {flight.client: flight for flight in flights}
        for number, known in versions.items():
            index = self._method.public_index(number) if self._method.predicts else self._method.round_index
            self.versions[number] = Version(number, known, index)

    def _land(self, arriving: Iterable[Flight]) -> None:
        self._arriving = {flight.client: flight for flight in arriving}
        for client in self._arriving:
            del self.flights[client]

    def _by_version(self, flights: Mapping[str, Flight]) -> list[tuple[int, list[Client]]]:
        """Return these flights' clients in natural order, by the round in which they were asked."""
        found = sorted((flights[c.id].version, c.number, c) for c in self._host.clients if c.id in flights)
        return [(version, [c for _, _, c in group]) for version, group in groupby(found, key=lambda one: one[0])]
