"""Settings, data and code that a resumed run must share with the interrupted one, kept next to the server's state."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from logging import WARNING
from typing import Any, Self

from fd_flower.config import CHANGEABLE, Settings
from fd_flower.core.checksum import checksum, joined
from fd_flower.core.client import Client
from fd_flower.core.clients import Clients, kinds
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.flower import log
from fd_flower.core.storage import Position
from fd_flower.core.versions import package_sources, sources, versions
from fd_flower.results.folder import as_line
from fd_flower.results.reproduce import flatten
from fd_flower.server.clock import Flight
from fd_flower.tasks.world import World

FREE = (*CHANGEABLE, "run.out", "run.resume")
"""Options that may be others in a resumed run, and those that say which one it is."""

OF_EACH = "of the clients"
"""What a checksum of each client's own samples is about; where hosts know their counts there is one of all instead."""


@dataclass(frozen=True)
class Standing:
    """A run's position after a round, in addition to the server's state.

    Attributes
    ----------
    settings : str
        ``Settings.text``.
    run_key : str
        The run's own key.
    data : dict[str, str]
        Checksums of the data that evaluate, and of what hosted clients hold.
    bases : dict[str, str]
        Architecture -> checksum of what is frozen in the clients' models.
    lines : int
        Lines of ``rounds.jsonl``, without those of a closing message.
    checksum : str
        That of these lines.
    code : list[dict[str, Any]]
        Which code played the rounds ``after`` one.
    remembered : dict[str, Position]
        Hosted client -> the newest turn that it remembers.
    shares : int
        How many shares of the clients nodes host on disks of their own; 0: their memory is next to the run's folder.
    virtual : float
        Virtual seconds of the rounds that are done.
    flights : list[Flight]
        Turns of simulated clients that are under way.
    """

    settings: str
    run_key: str
    data: dict[str, str]
    bases: dict[str, str] = field(default_factory=dict)
    lines: int = 0
    checksum: str = ""
    code: list[dict[str, Any]] = field(default_factory=list)
    remembered: dict[str, Position] = field(default_factory=dict)
    shares: int = 0
    virtual: float = 0.0
    flights: list[Flight] = field(default_factory=list)

    @classmethod
    def of(
        cls, settings: Settings, run_key: str, world: World, clients: Sequence[Client], *, hosted: bool, shares: int = 0
    ) -> Self:
        """Return where a run stands before round one."""
        data = {"that evaluate": world.kind.copy(world)}
        if isinstance(clients, Clients) and clients.data:
            alike = {c.id: f"{c.model} {c.public}" for c in clients.kinds}
            data["of all clients"] = joined({"": clients.data, **alike})[:12]
        else:
            held = {c.id: f"{c.model} {c.public} {c.checksum}" for c in clients} if hosted else {}
            data[OF_EACH] = joined(held)[:12]
        bases = {c.model: c.base for c in kinds(clients) if c.base}
        first = [{"after": 0, **code(settings.method)}]
        return cls(settings.text, run_key, data, bases, code=first, shares=shares)

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what ``text`` says back."""
        tree = json.loads(text)
        remembered = {client: (int(round), int(place)) for client, (round, place) in tree.pop("remembered").items()}
        flights = [Flight(**flight) for flight in tree.pop("flights", ())]
        return cls(**tree, remembered=remembered, flights=flights)

    @property
    def text(self) -> str:
        """Everything as one line of JSON."""
        return json.dumps({**vars(self), "flights": [vars(flight) for flight in self.flights]}, sort_keys=True)

    @property
    def _options(self) -> dict[str, Any]:
        """Every option by its dotted key, defaults too, and the run key."""
        return {**flatten(Settings.read(self.settings).tree()), "run_key": self.run_key}

    def check(
        self, now: "Standing", lines: Sequence[Mapping[str, Any]], place: str, one_by_one: Callable[[], str]
    ) -> None:
        """Raise where options, data or lines differ from those of the interrupted run.

        Parameters
        ----------
        now : Standing
            Where the resumed run would stand before round one.
        lines : Sequence[Mapping[str, Any]]
            Lines of the rounds that are done, without those of a closing message.
        place : str
            The run's folder, for errors.
        one_by_one : Callable[[], str]
            Reads all clients' samples for the checksum that a run of an earlier version has.
        """
        there, here = self._options, now._options
        changed = [key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key)]
        words = [f"{key} is {here.get(key)}, was {there.get(key)}" for key in changed if key not in FREE]
        if "server.rounds" in changed and here.get("privacy.epsilon") is not None:
            raise InvalidInputError(
                f"{place} cannot be resumed with server.rounds={here['server.rounds']}: privacy.epsilon sized the "
                f"noise of its {there['server.rounds']} rounds: keep their number, or begin another run"
            )
        if words:
            raise InvalidInputError(
                f"{place}/config.yaml was changed since its run was cut off: {'; '.join(words)}: put it back, or begin "
                "another run"
            )
        if self.shares != now.shares:
            raise InvalidInputError(
                f"{place} cannot be resumed: its clients {_hosted(now.shares)}, and {_hosted(self.shares)} before: "
                "start the same SuperNodes, whose disks have the clients' memory"
            )
        for what, digest in self.data.items():
            found = now.data.get(what)
            if found is None:
                found = one_by_one() if what == OF_EACH else ""
            if digest != found:
                raise InvalidInputError(
                    f"{place} cannot be resumed: the data {what} changed (checksum {found or 'none'}, was "
                    f"{digest or 'none'}): put them back, or start another run"
                )
        for model in sorted(self.bases.keys() & now.bases.keys()):
            if self.bases[model] != now.bases[model]:
                was, found = self.bases[model][:12], now.bases[model][:12]
                raise InvalidInputError(
                    f"{place} cannot be resumed: the frozen part of '{model}' changed (checksum {found}, was {was}): "
                    "put the model's files and the versions of packages back, or start another run"
                )
        if len(lines) != self.lines:
            raise InvalidInputError(
                f"{place}/rounds.jsonl has {len(lines)} lines of the rounds that are done, its checkpoint counts "
                f"{self.lines}: put the file back, or begin another run"
            )
        if chained("", lines) != self.checksum:
            raise InvalidInputError(
                f"{place}/rounds.jsonl has other figures than its run wrote (its checksum is another): put the file "
                "back, or begin another run"
            )

    def history(self, now: Mapping[str, Any], after: int) -> list[dict[str, Any]]:
        """Return which code ran which rounds, with the current code after this one; warn of other code."""
        last = {key: value for key, value in self.code[-1].items() if key != "after"}
        if last == now:
            return self.code
        log(WARNING, "the run is resumed with other code (%s): its figures may differ", _difference(last, now))
        return [*self.code, {"after": after, **now}]


def one_by_one(world: World, clients: Sequence[Client]) -> str:
    """Return the checksum ``OF_EACH`` of hosted clients whose samples are read for it."""
    held = {}
    for client in clients:
        own = world.data(client.id)
        held[client.id] = f"{client.model} {client.public} {checksum(own.train, own.validation, own.test)}"
    return joined(held)[:12]


def chained(before: str, lines: Iterable[Mapping[str, Any]]) -> str:
    """Return the checksum of lines that follow those of the checksum ``before``; those of a closing message are out."""
    for line in lines:
        if not line.get("closing"):
            before = hashlib.sha256((before + as_line(line)).encode()).hexdigest()[:12]
    return before


def code(method: str) -> dict[str, str]:
    """Return which code runs here: versions, and the start of a SHA-256 of FD-Flower's sources and the method's."""
    digest = hashlib.sha256((sources() + package_sources(method.rpartition(":")[0])).encode()).hexdigest()
    return {**versions(), "sources": digest[:12]}


def changes(history: Sequence[Mapping[str, Any]]) -> str:
    """Return, for the summary, what changed after which round."""
    return "; ".join(f"after round {now['after']}: {_difference(before, now)}" for before, now in pairwise(history))


def _hosted(shares: int) -> str:
    """Return how clients are hosted, in words."""
    return f"are hosted in {shares} shares" if shares else "are hosted without shares"


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    keys = [key for key in sorted(before.keys() | now.keys()) if key != "after" and before.get(key) != now.get(key)]
    return ", ".join(f"{key} {before.get(key)} -> {now.get(key)}" for key in keys)
