"""The Grid that shows clients where Flower shows nodes: a node may host one client (a device) or many."""

import atexit
import json
import secrets
import shutil
import tempfile
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from fd_flower.config import Settings, registry
from fd_flower.core import nonce
from fd_flower.core.client import Client, answered, grouped, natural
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.core.flower import name_message
from fd_flower.core.keys import allowed, keys_of
from fd_flower.core.storage import Position
from fd_flower.server.handshake import Answers, Check, Handshake, anybody, joined, received
from fd_flower.server.plain import seen_plain
from fd_flower.wire.envelope import HANDSHAKE, HEADER, REMEMBERED, STATE, fold, records, remembered, unfold
from fd_flower.wire.traffic import Bytes, size_of

REPLY_LIMIT = 64 * 2**20
"""A node's clients are asked in several messages where the expected reply would pass this many bytes."""

PLAIN = "No query function registered with name 'fd_flower'"
"""What Flower answers for an app that knows nothing of us; the error's code is the same as for a crash."""

ASKED = "InvalidInputError: "
"""How the reason begins for which a host refuses what it is asked for."""

FIRST = 3
"""Nodes that are asked first: where all know nothing of us, the others are not asked."""

LOOK = 5.0
"""Seconds between looks whether nodes that owe a reply were started anew."""

PAUSE = 0.05
"""Seconds between the first two looks at which nodes are there; the next ones are further apart."""

LOST = 3
"""Error code of a client whose node answered without it."""


class HostGrid(Grid):
    """Clients instead of nodes, over any Grid of Flower's.

    A node gets one message for all its clients, in which what they share is once; its reply is split into one message
    a client. Strategies, ours and Flower's, see the client with number i as node id i + 1.

    Attributes
    ----------
    clients : tuple[Client, ...]
        Who answered the handshake, in natural order.
    engine : str
        The class of the grid beneath.
    plain : bool
        Whether the nodes run an app that knows nothing of FD-Flower.
    absent : dict[str, str]
        Client id -> why it was not asked in the last exchange.
    class_names : tuple[str, ...]
        The run's classes in the order of their numbers: ``data.class_names``, or what most devices call theirs, in the
        order of the first of these.
    remembered : dict[str, Position]
        Hosted client -> the newest turn that it is known to remember.
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
        self._grid = grid
        self._settings = settings
        self._each_node = each_node
        self.remembered: dict[str, Position] = {}
        run_key = run_key or secrets.token_hex(8)
        if not state:
            state = tempfile.mkdtemp(prefix="fd-flower-")
            atexit.register(shutil.rmtree, state, ignore_errors=True)
        self._header: dict[str, str | int | bool | list[str]] = {
            "run-key": run_key,
            "settings": settings.text,
            "state": state,
            "public-labels": public_labels,
        }
        self._allow = allowed(settings.server.allow)
        self._handshake = Handshake(self._allow)
        self._nodes: set[int] = set()
        self._queues: dict[int, deque[list[Message]]] = {}
        self._open: dict[str, tuple[int, list[Message]]] = {}
        self._late: dict[str, int] = {}
        self._since: dict[int, str] = {}
        self._arrived: dict[str, Message] = {}
        self._reply_size = 0
        self.clients: tuple[Client, ...] = ()
        self.plain = plain
        self.engine = type(grid).__name__
        self.absent: dict[str, str] = {}
        self.class_names = tuple(settings.data.class_names or ())
        self.bytes = Bytes()

    @classmethod
    def open(cls, grid: Grid, settings: Settings) -> "HostGrid":
        """Shake hands for a strategy that is not ours.

        >>> grid = HostGrid.open(grid, settings("fedavg", "data.clients=10"))  # doctest: +SKIP
        >>> FedAvg().start(grid, initial_arrays=...)  # doctest: +SKIP
        """
        host = cls(grid, settings)
        host.handshake()
        host.mark()
        return host

    def mark(self) -> None:
        """Leave a nonce where hosted clients keep their memory; every message names it from now on.

        Raises
        ------
        InvalidInputError
            Where nothing can be written there.
        """
        if self.hosted:
            state, run_key = Path(str(self._header["state"])), str(self._header["run-key"])
            self._header["nonce"] = nonce.write(state, run_key)

    # --- who is there

    @property
    def settings(self) -> Settings:
        """The run's settings, as nodes are sent them."""
        return self._settings

    @property
    def hosted(self) -> bool:
        """Whether nodes host simulated clients."""
        return self._handshake.hosted

    @property
    def refused(self) -> dict[str, str]:
        """Client or node -> why it takes no part."""
        return self._handshake.refused

    def client(self, node_id: int) -> Client:
        """Return the client that strategies see under this node id."""
        if not 0 < node_id <= len(self.clients):
            raise InvalidInputError(f"there is no node {node_id}; this federation shows 1 to {len(self.clients)}")
        return self.clients[node_id - 1]

    def handshake(self) -> tuple[Client, ...]:
        """Wait for nodes and ask who is there, unless they are seen to run a plain ClientApp.

        Raises
        ------
        RunError
            Where too few nodes come in ``server.wait`` seconds, or none can take part (each is named).
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
        if not self.clients:
            reasons = [self.refused[who] for who in sorted(self.refused, key=natural)]
            if self.hosted and all(why.startswith(ASKED) for why in reasons):  # the user's fault, for all alike
                others = "" if len(set(reasons)) == 1 else f" (and {len(reasons) - 1} other clients likewise)"
                raise InvalidInputError(reasons[0].removeprefix(ASKED) + others)
            raise RunError(f"no client can take part: {'; '.join(grouped(self.refused))}")
        return self.clients

    def fitting(self, check: Check) -> tuple[Client, ...]:
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

    def refresh(self, check: Check = anybody) -> tuple[Client, ...]:
        """Look for nodes again, as Flower's strategies do before each round, and return whom a round can ask.

        Of plain ClientApps these are the ones that are there; ``server.nodes`` of them are waited for. Others are asked
        though they may be gone, so that the round's line names them.

        A device with which the clients would not pass ``check`` (it raises InvalidInputError) is refused.

        Raises
        ------
        RunError
            Where too few plain ClientApps are there for ``server.wait`` seconds.
        """
        if self.plain:
            self._wait(steady=False)
        here = self._look(check)
        return here if self.plain else self.clients

    def _look(self, check: Check = anybody) -> tuple[Client, ...]:
        """Shake hands for nodes that have come since, and return the clients whose nodes are there.

        A returning device has a new node id and its old client id.
        """
        nodes = set(self._grid.get_node_ids())
        if new := sorted(nodes - self._nodes):
            self._nodes |= nodes
            if self.plain:
                self._admit_plain(new)
            else:
                self._admit(self._ask(new), gone=set(self._handshake.homes.values()) - nodes, check=check)
        return tuple(client for client in self.clients if self._handshake.homes[client.id] in nodes)

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
        """Return what each node says of itself, or ``{"refused": reason}``."""
        module = self._settings.method.rpartition(":")[0]  # "" of a built-in method
        content = fold({}, {**self._header, "module": module})
        asked = [Message(content, node, HANDSHAKE) for node in nodes]
        replies = self._grid.send_and_receive(asked, timeout=self._settings.server.timeout) if asked else ()
        return received(nodes, replies, module)

    def _admit(self, answers: Answers, gone: Collection[int] = (), check: Check = anybody) -> None:
        """Take in the nodes that can take part."""
        known, answers = self.clients, self._handshake.sift(answers)
        hosts = [] if known else self._handshake.hosts(answers)  # once a run has begun, its hosts hold all clients
        if hosts:
            if self._each_node:
                data = replace(self._settings.data, clients=len(hosts))
                self._settings = replace(self._settings, data=data)
                self._header["settings"] = self._settings.text
            ids = [str(i) for i in range(self._settings.data.clients)]
            self._handshake.homes |= {client: hosts[i % len(hosts)] for i, client in enumerate(ids)}
            found = self._hosted(ids)
        else:
            keys = {} if self._allow is None else keys_of(self._grid)
            found = self._handshake.devices(answers, known, keys, gone, check)
        if not self.hosted and not self.class_names:
            self.class_names = _most_common([c.labels for c in joined(known, found) if c.labels])
            self._header["class-names"] = list(self.class_names)
        self.clients = tuple(client.called(self.class_names) for client in joined(known, found))

    def _admit_plain(self, nodes: Sequence[int]) -> None:
        """Take in nodes of which nothing is known but their ids, which are their names."""
        self._handshake.homes |= {str(node): node for node in nodes}
        self.clients = joined(self.clients, {str(node): Client(str(node), 0) for node in nodes})

    def _hosted(self, ids: list[str]) -> dict[str, Client]:
        """Ask hosts for one answer a client."""
        self.clients = tuple(Client(name, i) for i, name in enumerate(ids))
        content = RecordDict({"config": ConfigRecord({"server-round": 0})})
        asked = [Message(content, c.node_id, HANDSHAKE) for c in self.clients]
        replies = self.exchange(asked, timeout=self._settings.server.timeout, patient=True)
        found: dict[str, Client] = {}
        refused: dict[str, str] = {}
        silent = dict.fromkeys(ids)
        for reply in replies:
            client = self.client(reply.metadata.src_node_id).id
            silent.pop(client, None)
            try:
                if reply.has_error():
                    raise InvalidInputError(reply.error.reason or "an error without a reason")
                found[client] = answered(client, records(reply.content, ConfigRecord).get("client", {}))
            except InvalidInputError as error:
                refused[client] = str(error)
        self._handshake.refuse_all(refused | dict.fromkeys(silent, "no answer to the handshake"))
        self.clients = ()
        self.bytes = Bytes()
        return found

    # --- Flower's Grid

    def set_run(self, run: Any) -> None:
        """Set the run, on the grid beneath."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """The run, as the grid beneath knows it."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a message to the client with number ``dst_node_id - 1``."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the node id of each client that is there now; nodes that have come since are asked who they are."""
        return [client.node_id for client in self._look()]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages to clients; those whose node still owes a reply are left out and named in ``absent``."""
        self._drop_late()
        self.absent = {}
        grouped: dict[int, list[Message]] = defaultdict(list)
        for message in messages:
            client = self.client(message.metadata.dst_node_id)
            home = self._handshake.homes[client.id]
            if home in self._late.values():
                self.absent[client.id] = "its node still owes an earlier reply"
                continue
            name_message(message)
            self.bytes.count("down", message.content)
            grouped[home].append(message)
        for home, own in grouped.items():
            size = max(self._reply_size, *(size_of(m.content) for m in own), 1)
            most = 1 if self.plain else max(1, REPLY_LIMIT // size)
            self._queues[home] = deque(own[i : i + most] for i in range(0, len(own), most))
        self._send(grouped)
        return [m.metadata.message_id for own in grouped.values() for m in own]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that have come to these messages."""
        ready = []
        for reply in self._grid.pull_messages(list(self._open)) if self._open else ():
            home, inner = self._open.pop(reply.metadata.reply_to_message_id, (0, []))
            if not inner:  # it came twice
                continue
            for answer in self._split(reply, inner):
                self._arrived[answer.metadata.reply_to_message_id] = answer
            ready.append(home)
        self._send(ready)
        return [self._arrived.pop(name) for name in message_ids if name in self._arrived]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send a strategy's messages that is not ours, and return their replies, Flower's error messages too.

        Raises
        ------
        InvalidInputError
            For FedProx over clients that do not look at its option.
        RunError
            Where no reply can be used: Flower's strategies would go on with what they had, to a result of nothing.
        """
        messages = list(messages)
        method = self._settings.method
        if messages and not self.plain and method in registry.names() and method != "fedprox":
            _check_proximal(messages[0], method)
        replies = self.exchange(messages, timeout=timeout)
        if messages and not any(reply.has_content() for reply in replies):
            kind = messages[0].metadata.message_type
            why = {self.client(m.metadata.src_node_id).id: m.error.reason or f"error {m.error.code}" for m in replies}
            reasons = "; ".join(grouped({**self.absent, **why}, "client")) or "nobody answered"
            raise RunError(f"none of {len(messages)} clients has a usable reply to '{kind}': {reasons}")
        return replies

    def exchange(
        self, messages: Iterable[Message], *, timeout: float | None = None, patient: bool = False
    ) -> list[Message]:
        """Send, and wait until all replies, the timeout, or the grace after ``server.min_replies`` replies.

        Where it is ``patient`` (the handshake, the closing message), nodes that still owe a reply are waited for first,
        and stragglers until the timeout.
        """
        server = self._settings.server
        begin = time.monotonic()
        deadline = float("inf") if timeout is None else begin + timeout
        messages = list(messages)
        while patient and self._late and time.monotonic() < deadline:
            self._drop_late()
            _pause(begin)
        sent = self.push_messages(messages)
        waiting = set(sent)
        replies: list[Message] = []
        grace = None if patient else server.grace
        look = begin + LOOK
        while waiting and time.monotonic() < deadline:
            if time.monotonic() > look:
                self._give_up()
                look = time.monotonic() + LOOK
            came = self.pull_messages([name for name in sent if name in waiting])
            waiting -= {m.metadata.reply_to_message_id for m in came}
            replies += came
            if grace is not None and sum(m.has_content() for m in replies) >= server.min_replies:
                deadline = min(deadline, time.monotonic() + grace)
                grace = None
            if waiting and not came:
                _pause(begin)
        self._late |= {name: home for name, (home, _) in self._open.items()}
        self._open, self._queues, self._arrived = {}, {}, {}
        if messages:
            self.bytes.ended(messages[0].metadata.message_type, time.monotonic() - begin)
        return replies

    # --- one message a node

    def _send(self, homes: Iterable[int]) -> None:
        """Send each of these nodes the next of its messages."""
        batches = {}
        for home in homes:
            if self._queues.get(home):
                batches[home] = self._queues[home].popleft()
        outer = []
        for home, inner in batches.items():
            kind, group = inner[0].metadata.message_type, inner[0].metadata.group_id
            if self.plain:
                content = inner[0].content
            else:
                contents = {self.client(m.metadata.dst_node_id).id: m.content for m in inner}
                known = {client: self.remembered[client] for client in contents if client in self.remembered}
                content = fold(contents, {**self._header, REMEMBERED: json.dumps(known)} if known else self._header)
            self.bytes.wire += size_of(content)
            outer.append(Message(content, home, kind, group_id=group))
        starts = self._starts() if outer else {}
        self._since |= {home: starts[home] for home in batches if home in starts}
        sent = set(self._grid.push_messages(outer))
        for message in outer:
            home = message.metadata.dst_node_id
            if message.metadata.message_id in sent:
                self._open[message.metadata.message_id] = home, batches[home]
            else:  # grids skip what they refuse silently
                for message in chain(batches[home], *self._queues.pop(home)):
                    lost = Message(Error(LOST, "its node is gone, or the message is too large"), reply_to=message)
                    self._arrived[message.metadata.message_id] = lost

    def _split(self, reply: Message, asked: list[Message]) -> list[Message]:
        """Turn a node's reply into one reply a client."""
        if reply.has_error():
            return [Message(reply.error, reply_to=m) for m in asked]
        self.bytes.wire += size_of(reply.content)
        if self.plain:
            answers: dict[str, RecordDict | Error] = {self.client(asked[0].metadata.dst_node_id).id: reply.content}
        else:
            try:
                answers = unfold(reply.content)
                kept = remembered(records(reply.content, ConfigRecord)[HEADER]) if self.hosted else {}
            except InvalidInputError as error:
                return [Message(Error(LOST, str(error)), reply_to=m) for m in asked]
            self.remembered |= {client: kept[client] for client in answers if client in kept}
        split = []
        limit = self._settings.server.max_reply_mb * 2**20
        for message in asked:
            lost = Error(LOST, "its node answered without it")
            answer = answers.get(self.client(message.metadata.dst_node_id).id, lost)
            if isinstance(answer, Error) and answer.code == STATE and self.hosted:
                raise RunError(answer.reason)
            if isinstance(answer, RecordDict) and (size := size_of(answer)) > limit:
                answer = Error(LOST, f"its reply has {size / 2**20:.1f} MB; server.max_reply_mb is {limit / 2**20:g}")
            if isinstance(answer, RecordDict):
                self.bytes.count("up", answer)
                self._reply_size = max(self._reply_size, size)
            split.append(Message(answer, reply_to=message))
        return split

    def _starts(self) -> dict[int, str]:
        """Return when each node that is there was started, where the grid knows it."""
        return {node.node_id: node.last_activated_at for node in self._grid.get_nodes()}

    def _anew(self, homes: Collection[int]) -> set[int]:
        """Return which of these nodes were started anew since a message was sent: Flower waits for them in vain."""
        starts = self._starts()
        return {home for home in homes if home in starts and starts[home] != self._since.get(home, starts[home])}

    def _give_up(self) -> None:
        """Answer with errors for nodes that were started anew since they were asked."""
        anew = self._anew({home for home, _ in self._open.values()})
        for name in [name for name, (home, _) in self._open.items() if home in anew]:
            home, inner = self._open.pop(name)
            for message in chain(inner, *self._queues.pop(home, ())):
                lost = Message(Error(LOST, "its node was started anew in the middle"), reply_to=message)
                self._arrived[message.metadata.message_id] = lost

    def _drop_late(self) -> None:
        """Take replies that came too late out of Flower's store and forget them."""
        if self._late:
            owing = set(self._late.values())
            gone = owing - set(self._grid.get_node_ids()) | self._anew(owing)
            for reply in self._grid.pull_messages(list(self._late)):
                self._late.pop(reply.metadata.reply_to_message_id, None)
            self._late = {name: home for name, home in self._late.items() if home not in gone}


def _check_proximal(message: Message, method: str) -> None:
    """Refuse Flower's FedProx for a method's clients, who would train as FedAvg's do."""
    if any(record.get("proximal-mu") for record in records(message.content, ConfigRecord).values()):
        raise InvalidInputError(
            f"FedProx sends proximal-mu, at which the clients of {method} do not look: open the HostGrid with "
            "settings('fedprox', ...)"
        )


def _most_common(named: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the classes that most devices name, in the order of the first that does; () where none names any."""
    if not named:
        return ()
    counts = Counter(map(frozenset, named))
    return max(named, key=lambda names: counts[frozenset(names)])


def _plain(answer: Mapping[str, Any]) -> bool:
    """Whether a node answered the handshake as an app that knows nothing of us."""
    return PLAIN in str(answer.get("refused", ""))


def _pause(begin: float, sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait a little: never more than 2 % of the time already waited, nor than a second."""
    sleep(max(0.01, min(1.0, 0.02 * (time.monotonic() - begin))))
