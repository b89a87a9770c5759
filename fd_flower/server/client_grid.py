"""Messages to clients over a Grid of nodes: one message a node, its reply split, late replies kept apart."""

import json
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from typing import Any

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from fd_flower.config import Settings, registry
from fd_flower.core.client import Client, grouped
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.core.flower import name_message
from fd_flower.core.storage import Position
from fd_flower.server.handshake import Handshake
from fd_flower.wire import Bounds
from fd_flower.wire.envelope import HEADER, REMEMBERED, STATE, fold, records, remembered, unfold
from fd_flower.wire.host_sum import HostSum
from fd_flower.wire.traffic import Bytes, size_of

REPLY_LIMIT = 64 * 2**20
"""A node's clients are asked in several messages where the expected reply would pass this many bytes."""

LOOK = 5.0
"""Seconds between checks for nodes that owe a reply and were restarted."""

LOST = 3
"""Error code of a client whose node answered without it."""


class ClientGrid(Grid):
    """A Grid whose nodes are clients, over one of Flower's whose nodes hold one client or many.

    A node gets one message for all its clients, in which what they share is once; its reply is split into one message
    a client. Strategies of FD-Flower and Flower see the client with number i as node id i + 1.

    Parameters
    ----------
    grid : Grid
        The grid beneath.
    settings : Settings
        Of the run.
    handshake : Handshake
        Which client lives on which node.
    header : dict[str, str | int | bool | list[str]]
        What every message to a node names, whatever its clients get.

    Attributes
    ----------
    clients : Sequence[Client]
        Who takes part, in natural order.
    engine : str
        The class of the grid beneath.
    plain : bool
        Whether the nodes run an app that knows nothing of FD-Flower.
    absent : dict[str, str]
        Client id -> why it was not asked in the last exchange.
    remembered : dict[str, Position]
        Hosted client -> the newest turn that it is known to remember.
    sums : list[HostSum]
        Sums of replies that hosts answered with since ``sums`` was emptied; a reply's ``row`` has its place here.
    bytes : Bytes
        What was sent and received.
    """

    def __init__(
        self, grid: Grid, settings: Settings, handshake: Handshake, header: dict[str, str | int | bool | list[str]]
    ) -> None:
        self._grid = grid
        self._settings = settings
        self._handshake = handshake
        self._header = header
        self._queues: dict[int, deque[list[Message]]] = {}
        self._open: dict[str, tuple[int, list[Message]]] = {}
        self._late: dict[str, int] = {}
        self._since: dict[int, str] = {}
        self._arrived: dict[str, Message] = {}
        self._reply_size = 0
        self.clients: Sequence[Client] = ()
        self.plain = False
        self.engine = type(grid).__name__
        self.absent: dict[str, str] = {}
        self.remembered: dict[str, Position] = {}
        self.sums: list[HostSum] = []
        self.bytes = Bytes()

    @property
    def hosted(self) -> bool:
        """Whether nodes host simulated clients."""
        return self._handshake.hosted

    def client(self, node_id: int) -> Client:
        """Return the client that strategies see under this node id."""
        if not 0 < node_id <= len(self.clients):
            raise InvalidInputError(f"there is no node {node_id}; this federation shows 1 to {len(self.clients)}")
        return self.clients[node_id - 1]

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

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages to clients; those whose node still owes a reply are left out and named in ``absent``."""
        self._drop_late()
        self.absent = {}
        by_node: dict[int, list[Message]] = defaultdict(list)
        for message in messages:
            client = self.client(message.metadata.dst_node_id)
            home = self._handshake.homes[client.id]
            if home in self._late.values():
                self.absent[client.id] = "its node still owes an earlier reply"
                continue
            name_message(message)
            self.bytes.count("down", message.content)
            by_node[home].append(message)
        for home, own in by_node.items():
            size = max(self._reply_size, *(size_of(m.content) for m in own), 1)
            most = 1 if self.plain else max(1, REPLY_LIMIT // size)
            self._queues[home] = deque(own[i : i + most] for i in range(0, len(own), most))
        self._send(by_node)
        return [m.metadata.message_id for own in by_node.values() for m in own]

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
                answers = {**unfold(reply.content), **self._summed(reply.content, asked)}
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

    def _summed(self, content: RecordDict, asked: list[Message]) -> dict[str, RecordDict]:
        """Keep the sum in a host's reply, if it has one, and return the reply of each client that is in it."""
        found = HostSum.find(content) if self.hosted else None
        if found is None:
            return {}
        found.check(Bounds())
        rows = found.rows(len(self.sums))
        if strangers := sorted(rows.keys() - {self.client(m.metadata.dst_node_id).id for m in asked}):
            raise InvalidInputError(f"its sum has clients that were not asked: {', '.join(strangers[:3])}")
        self.sums.append(found)
        for own in found.bytes_of().values():
            self.bytes.add("up", own)
        return rows

    def _starts(self) -> dict[int, str]:
        """Return when each node that is there was started, where the grid knows it."""
        return {node.node_id: node.last_activated_at for node in self._grid.get_nodes()}

    def _anew(self, homes: Collection[int]) -> set[int]:
        """Return which of these nodes were started again since a message was sent: Flower waits for them in vain."""
        starts = self._starts()
        return {home for home in homes if home in starts and starts[home] != self._since.get(home, starts[home])}

    def _give_up(self) -> None:
        """Answer with errors for nodes that were started again since they were asked."""
        anew = self._anew({home for home, _ in self._open.values()})
        for name in [name for name, (home, _) in self._open.items() if home in anew]:
            home, inner = self._open.pop(name)
            for message in chain(inner, *self._queues.pop(home, ())):
                lost = Message(Error(LOST, "its node was restarted during the round"), reply_to=message)
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


def _pause(begin: float, sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait a little: never more than 2 % of the time already waited, nor than a second."""
    sleep(max(0.01, min(1.0, 0.02 * (time.monotonic() - begin))))
