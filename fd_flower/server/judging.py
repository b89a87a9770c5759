"""Who is evaluated on all clients' samples, when each of them first is, and whose figure is how old."""

import heapq
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, final

from fd_flower.config import ServerConfig, Settings
from fd_flower.core import judges
from fd_flower.core.client import Client
from fd_flower.core.clients import chosen, ids


@final
class Judges:
    """A run's judges, of ``server.judges``.

    Parameters
    ----------
    settings : Settings
        The run.
    everybody : bool
        Whether all clients are judges, whatever ``server.judges`` says.

    Attributes
    ----------
    ids : frozenset[str]
        Who they are.
    last : int | None
        The rank of the last one; None: all clients are judges.
    """

    def __init__(self, settings: Settings, *, everybody: bool = False) -> None:
        self._settings = settings
        self._everybody = everybody
        self._clients: Sequence[Client] = ()
        self._newest: dict[str, int] = {}
        self.ids: frozenset[str] = frozenset()
        self.last: int | None = None

    def among(self, clients: Sequence[Client]) -> "Judges":
        """Choose them among those who take part now; who was chosen stays, unless a new client is before them."""
        if clients is not self._clients:
            self._clients = clients
            first = clients if self._everybody else in_line(clients, self._settings)
            self.ids = frozenset(client.id for client in first)
            everybody = len(first) == len(clients)
            self.last = None if everybody else judges.rank(self._settings.run.seed, first[-1].id)
        return self

    def note(self, lines: Sequence[dict[str, Any]]) -> None:
        """Say in the line of an evaluated round, or of a closing message, how many have a figure and how old it is."""
        evaluated: list[dict[str, Any]] = []
        for line in lines:
            if "client" not in line:
                head = line
            elif self.hear(line) and not any(head is one for one in evaluated):
                evaluated.append(head)
        known = [self._newest[who] for who in self.ids if who in self._newest]
        for head in evaluated if self.last is not None else ():
            oldest = head["round"] - min(known, default=head["round"])
            head["judges"] = {"count": len(self.ids), "evaluated": len(known), "oldest": oldest}

    @property
    def header(self) -> dict[str, int]:
        """What a message says about them: nothing where all clients are judges."""
        return {} if self.last is None else {judges.KEY: self.last}

    @property
    def limit(self) -> int:
        """The samples of the test set that each predicts on before the last round; 0: all."""
        return 0 if self.last is None else judges.SAMPLES

    def closing(self, asked: Sequence[str]) -> Sequence[Client]:
        """Return whom the closing message asks: all, or, where judges are few, these and those of the last round."""
        if self.last is None:
            return self._clients
        some = self.ids.union(asked)
        return chosen(self._clients, some)

    def hear(self, line: Mapping[str, Any]) -> bool:
        """Take a client's line in; return whether the client was evaluated."""
        if line.get("evaluations") and line["client"] in self.ids:
            self._newest[line["client"]] = line["round"]
        return bool(line.get("evaluations"))


def in_line(clients: Sequence[Client], settings: Settings) -> list[Client]:
    """Return the judges among these clients, by rank."""
    return [clients[place] for place in _line(clients, settings)]


def _line(clients: Sequence[Client], settings: Settings) -> list[int]:
    """Return the places of the judges among these clients, by rank."""
    return _places(tuple(ids(clients)), settings.run.seed, judges.count(settings.server.judges, len(clients)))


@lru_cache(maxsize=2)
def _places(names: tuple[str, ...], seed: int, count: int) -> list[int]:
    """Return the places of the first so many in line: every evaluated round asks for them."""
    return heapq.nsmallest(count, range(len(names)), key=lambda place: judges.rank(seed, names[place]))


def first_heard(clients: Sequence[Client], settings: Settings, number: int, asked: int) -> list[int]:
    """Return the places of the judges whom this round's sample takes first, so that each is evaluated early.

    The n-th round that is evaluated takes the n-th ``asked`` of them. No one is taken first where all clients are
    judges, or all are asked.
    """
    config = settings.server
    if asked == len(clients) or judges.count(config.judges, len(clients)) == len(clients):
        return []
    place = _evaluated_before(config, number)
    if place is None:
        return []
    return _line(clients, settings)[place * asked : (place + 1) * asked]


def _evaluated_before(config: ServerConfig, number: int) -> int | None:
    """Return how many rounds were evaluated before this one; None: it is not evaluated."""
    every = config.evaluate_every
    if number < config.rounds and not (every and number % every == 0):
        return None
    return (number - 1) // every if every else 0
