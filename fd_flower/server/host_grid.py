"""Who is there: the Grid that asks nodes what they are, one client (a device) or hosts of many."""

import atexit
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from fd_flower.config import Settings, registry
from fd_flower.core import nonce
from fd_flower.core.client import Client, grouped
from fd_flower.core.clients import Clients
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.core.keys import allowed, keys_of
from fd_flower.core.share import named
from fd_flower.server.client_grid import ClientGrid
from fd_flower.server.dealing import Homes, by_load, by_number
from fd_flower.server.handshake import Answers, Check, Handshake, anybody, joined, received
from fd_flower.server.plain import seen_plain
from fd_flower.server.pool import Pool
from fd_flower.wire.envelope import HANDSHAKE, fold, records

PLAIN = "No query function registered with name 'fd_flower'"
"""What Flower answers for an app that knows nothing of us; the error's code is the same as for a crash."""

FIRST = 3
"""Nodes that are asked first: where all know nothing of us, the others are not asked."""

PAUSE = 0.05
"""Seconds between the first two looks at which nodes are there; the next ones are further apart."""


class HostGrid(ClientGrid):
    """Clients instead of nodes, over any Grid of Flower's: it asks the nodes who they are and what they hold.

    Attributes
    ----------
    class_names : tuple[str, ...]
        The run's classes in the order of their numbers: ``data.class_names``, or the names of most devices, in the
        order of the first of these.
    """

    def __init__(
        self,
        grid: Grid,
        settings: Settings,
        *,
        run_key: str = "",
        state: str = "",
        public_labels: bool = False,
        plain: bool = False,
        each_node: bool = False,
    ) -> None:
        run_key = run_key or secrets.token_hex(8)
        if not state:
            state = tempfile.mkdtemp(prefix="fd-flower-")
            atexit.register(shutil.rmtree, state, ignore_errors=True)
        header: dict[str, str | int | bool | list[str]] = {
            "run-key": run_key,
            "settings": settings.text,
            "state": state,
            "public-labels": public_labels,
        }
        self._allow = allowed(settings.server.allow)
        self._nodes: set[int] = set()
        # Where public samples add classes, the devices name all.
        self.class_names = () if settings.data.adds_classes else tuple(settings.data.class_names or ())
        self._each_node = each_node
        known = nonce.found(Path(state), run_key)
        super().__init__(grid, settings, Handshake(self._allow, known), header)
        self._pool = Pool(grid, self._handshake)
        self.plain = plain

    @classmethod
    def open(cls, grid: Grid, settings: Settings) -> "HostGrid":
        """Run the handshake for a strategy of Flower's or the user's own.

        >>> grid = HostGrid.open(grid, settings("fedavg", "data.clients=10"))  # doctest: +SKIP
        >>> FedAvg().start(grid, initial_arrays=...)  # doctest: +SKIP
        """
        if settings.server.clock != "rounds":
            raise InvalidInputError(
                f"server.clock is '{settings.server.clock}', and a strategy of Flower's works in rounds: leave it out, "
                "or take a strategy of FD-Flower"
            )
        if settings.attack.on_replies:
            raise InvalidInputError(
                f"attack.name={settings.attack.name} rewrites replies on their way into a strategy of FD-Flower, and "
                "this one is Flower's or your own: take an attack on training labels, or a strategy of FD-Flower"
            )
        if settings.privacy.dp != "none":
            raise InvalidInputError(
                f"privacy.dp={settings.privacy.dp} clips and adds noise in a strategy of FD-Flower, and this one is "
                "Flower's or your own: take a strategy of FD-Flower, or Flower's mods and wrappers without privacy.dp"
            )
        if used := settings.wire.used:
            raise InvalidInputError(
                f"{used[0]} encodes messages for a strategy of FD-Flower, and this one is Flower's or your own, which "
                "reads plain arrays alone: leave it out"
            )
        host = cls(grid, settings)
        host.handshake()
        host.mark()
        return host

    def mark(self) -> None:
        """Leave a nonce where hosted clients keep their memory; every message names it from now on.

        Hosts with disks of their own keep it there, and are sent those of the run's earlier starts, too.

        Raises
        ------
        InvalidInputError
            Where nothing can be written there.
        """
        if self.hosted:
            state, run_key = Path(str(self._header["state"])), str(self._header["run-key"])
            self._header["nonce"] = nonce.write(state, run_key, again=bool(self.shares))
            if self.shares:
                self._handshake.hosts.known = nonce.found(state, run_key)
                self._header["nonces"] = " ".join(self._handshake.hosts.known)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send the messages of a strategy that is not FD-Flower's, and return the replies, Flower's error messages too.

        Raises
        ------
        InvalidInputError
            For FedProx over clients that do not look at its option.
        RunError
            Where no reply can be used: Flower's strategies would continue with what they had, to a result of nothing.
        """
        messages = list(messages)
        method = self._settings.method
        if messages and not self.plain and method in registry.names() and method != "fedprox":
            _check_proximal(messages[0], method)
        replies = self.exchange(messages, timeout=timeout)
        if messages and not any(reply.has_content() for reply in replies):
            kind = messages[0].metadata.message_type
            why = {self.client(m.metadata.src_node_id).id: m.error.reason or f"error {m.error.code}" for m in replies}
            reasons = "; ".join(grouped({**self.absent, **why}, "client")) or "no client answered"
            raise RunError(f"none of {len(messages)} clients has a usable reply to '{kind}': {reasons}")
        return replies

    # --- who is there

    @property
    def settings(self) -> Settings:
        """The run's settings, as nodes are sent them."""
        return self._settings

    @property
    def refused(self) -> dict[str, str]:
        """Client or node -> why it takes no part."""
        return self._handshake.refused

    @property
    def shares(self) -> int:
        """How many shares of the clients nodes host on disks of their own; 0 where there are none."""
        hosts = self._handshake.hosts
        return hosts.of if hosts.named else 0

    def handshake(self) -> Sequence[Client]:
        """Wait for nodes and ask who is there, unless they are seen to run a plain ClientApp.

        Raises
        ------
        RunError
            Where too few nodes or shares come in ``server.wait`` seconds, or none can take part (each is named).
        """
        nodes = self._wait()
        self.plain = self.plain or seen_plain(self._grid)
        answers: dict[int, dict[str, Any]] = {}
        if not self.plain:
            answers = self._ask(nodes[:FIRST])
            if not all(map(_plain, answers.values())):
                answers |= self._ask(nodes[FIRST:])
            self.plain = any(map(_plain, answers.values())) and not any("role" in a for a in answers.values())
        if self.plain and self._allow is not None:
            raise InvalidInputError(
                "server.allow names clients; an app without FD-Flower's turn has none: leave it out"
            )
        if self.plain:
            self._admit_plain(nodes)
        else:
            self._admit(answers)
        self._nodes = set(nodes)
        if self.hosted:
            self._complete()
            self.clients = self._hosted()
        if not self.clients:
            raise RunError(f"no client can take part: {'; '.join(grouped(self.refused))}")
        return self.clients

    def fitting(self, check: Check) -> Sequence[Client]:
        """Return the clients, without devices that do not pass ``check`` together with most of the others.

        Raises
        ------
        InvalidInputError
            What ``check`` raises, where that is not the fault of a few devices.
        """
        try:
            check(self.clients)
        except InvalidInputError:
            if self.hosted or self.plain:
                raise
            fit = self._handshake.fitting(self.clients, check)
            if 2 * len(fit) <= len(self.clients):
                raise
            for client in self.clients:
                if client.id not in fit:
                    self._handshake.expel(client.id)
            self.clients = joined((), {c.id: c for c in self.clients if c.id in fit})
        return self.clients

    def refresh(self, check: Check = anybody) -> Sequence[Client]:
        """Look for nodes again, as Flower's strategies do before each round, and return whom a round can ask.

        Of plain ClientApps these are the ones that are there; ``server.nodes`` of them are waited for. Others are asked
        though they may be gone, so that the round's line names them.

        A device is rejected if the clients would not pass ``check`` with it (it raises InvalidInputError).

        Raises
        ------
        RunError
            Where too few plain ClientApps are there for ``server.wait`` seconds.
        """
        if self.plain:
            self._wait(steady=False)
        nodes = self._look(check)
        if self.plain:
            return tuple(client for client in self.clients if self._handshake.homes[client.id] in nodes)
        return self.clients

    def _look(self, check: Check = anybody) -> set[int]:
        """Shake hands for nodes that have come since, and return the nodes that are there.

        A returning device has a new node id and its old client id, a returning host its share.
        """
        nodes = set(self._grid.get_node_ids())
        if self.hosted:
            self._nodes -= self._handshake.hosts.unsettled(nodes, self._starts())
        if new := sorted(nodes - self._nodes):
            self._nodes |= nodes
            if self.plain:
                self._admit_plain(new)
            else:
                self._admit(self._ask(new), gone=self._handshake.at - nodes, check=check)
        return nodes

    def _wait(self, *, steady: bool = True) -> list[int]:
        """Wait until enough nodes are there, and two looks see the same ones if it has to be ``steady``."""
        wanted, limit = self._settings.server.nodes, self._settings.server.wait
        seen: set[int] = set()
        pause, deadline = PAUSE, time.monotonic() + limit
        while True:
            nodes = set(self._grid.get_node_ids())
            if len(nodes) >= wanted and (nodes == seen or not steady):
                return sorted(nodes)
            if time.monotonic() > deadline:
                raise RunError(
                    f"{len(nodes)} of {wanted} nodes are there after {limit:g} s (server.nodes, server.wait)"
                )
            seen = nodes
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _ask(self, nodes: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Return what each node reports of itself, or ``{"refused": reason}``."""
        module = self._settings.method.rpartition(":")[0]  # "" of a built-in method
        content = fold({}, {**self._header, "module": module})
        asked = [Message(content, node, HANDSHAKE) for node in nodes]
        replies = self._grid.send_and_receive(asked, timeout=self._settings.server.timeout) if asked else ()
        return received(nodes, replies, module)

    def _admit(self, answers: Answers, gone: Collection[int] = (), check: Check = anybody) -> None:
        """Take in the nodes that can take part."""
        self._handshake.hosts.asked(answers, self._starts())
        known, answers = self.clients, self._handshake.sift(answers)
        if not known and not self.hosted:
            self._handshake.decide(answers)
        keys = {} if self._allow is None else keys_of(self._grid)
        if self.hosted:
            self._handshake.take(answers, keys, gone)
            self._pool.check(self._header, answers)
            return
        found = self._handshake.devices(answers, known, keys, gone, check)
        if not self.class_names:
            self.class_names = _most_common([c.labels for c in joined(known, found) if c.labels])
            self._header["class-names"] = list(self.class_names)
        self.clients = tuple(client.called(self.class_names) for client in joined(known, found))

    def _admit_plain(self, nodes: Sequence[int]) -> None:
        """Take in nodes of which nothing is known but their ids, which are their names."""
        self._handshake.living |= {str(node): node for node in nodes}
        self.clients = joined(self.clients, {str(node): Client(str(node), 0) for node in nodes})

    def _complete(self) -> None:
        """Wait until every share of the clients is hosted."""
        limit, begin = self._settings.server.wait, time.monotonic()
        while missing := self._handshake.hosts.missing:
            if time.monotonic() > begin + limit:
                others = "; ".join(grouped(self.refused))
                raise RunError(
                    f"no node hosts {named(missing)} after {limit:g} s (server.wait): start a SuperNode for each, as "
                    f'with hosts="{missing[0]}" in its config{f"; not in this run: {others}" * bool(others)}'
                )
            time.sleep(min(1.0, PAUSE + time.monotonic() - begin))
            self._look()

    def _hosted(self) -> Clients:
        """Ask each host for all clients of a share, and give each client the share that hosts it from now on."""
        hosts, number = self._handshake.hosts.of, self._settings.data.clients
        if self._each_node:
            number = hosts
            self._settings = replace(self._settings, data=replace(self._settings.data, clients=number))
            self._header["settings"] = self._settings.text
        found = self._pool.asked(self._header, number, self._settings.server.timeout)
        dealt = (
            by_number(number, hosts)[found.ids] if self._each_node else by_load(found, hosts, self._settings.run.seed)
        )
        self._handshake.settle(found, dealt)
        return found

    def get_node_ids(self) -> list[int]:
        """Return the node id of each client that is there now; nodes that have come since are asked who they are."""
        nodes, homes = self._look(), self._handshake.homes
        if isinstance(homes, Homes):
            return [int(number) + 1 for number in homes.present(nodes)]
        return [client.node_id for client in self.clients if homes[client.id] in nodes]


def _most_common(named: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the classes that most devices name, in the order of the first that does; () where none names any."""
    if not named:
        return ()
    counts = Counter(map(frozenset, named))
    return max(named, key=lambda names: counts[frozenset(names)])


def _check_proximal(message: Message, method: str) -> None:
    """Refuse Flower's FedProx for a method's clients, who would train as FedAvg's do."""
    if any(record.get("proximal-mu") for record in records(message.content, ConfigRecord).values()):
        raise InvalidInputError(
            f"FedProx sends proximal-mu, at which the clients of {method} do not look: open the HostGrid with "
            "settings('fedprox', ...)"
        )


def _plain(answer: Mapping[str, Any]) -> bool:
    """Whether a node answered the handshake as an app that knows nothing of us."""
    return PLAIN in str(answer.get("refused", ""))
