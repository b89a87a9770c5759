"""Messages to clients over a Grid of nodes: one message a node, its reply split, late replies kept apart."""

import json
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from fd_flower.config import Settings
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.core.flower import name_message
from fd_flower.core.storage import Position
from fd_flower.server.handshake import Handshake
from fd_flower.wire import Bounds
from fd_flower.wire.envelope import HEADER, REMEMBERED, STATE, fold, records, remembered, unfold
from fd_flower.wire.host_sum import HostSum
from fd_flower.wire.replies import ROW
from fd_flower.wire.traffic import Bytes, size_of

REPLY_LIMIT = 64 * 2**20
"""A node's clients are asked in several messages where the expected reply would pass this many bytes.

Replies of devices are taken out of Flower's store so many at a time, too.
"""

LOOK = 5.0
"""Seconds between checks for nodes that owe a reply and were restarted."""

LOST = 3
"""Error code of a client whose node answered without it."""

RESTARTED, GONE = "its node was restarted during the round", "its node is gone"
"""Why a node will not answer."""


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
        self._size = 1  # bytes of the largest message to or from a client
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
            self._size = max(self._size, *(size_of(m.content) for m in own))
            most = 1 if self.plain else self._at_once
            self._queues[home] = deque(own[i : i + most] for i in range(0, len(own), most))
        self._send(by_node)
        return [m.metadata.message_id for own in by_node.values() for m in own]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that have come to these messages."""
        came = {reply.metadata.reply_to_message_id: reply for reply in self._coming()}
        self._arrived |= came
        return [self._arrived.pop(name) for name in message_ids if name in self._arrived]

    def exchange(
        self, messages: Iterable[Message], *, timeout: float | None = None, patient: bool = False
    ) -> list[Message]:
        """Send, and return the replies when all have come that ``replies`` waits for; parameters are its own."""
        return list(self.replies(messages, timeout=timeout, patient=patient))

    def replies(
        self, messages: Iterable[Message], *, timeout: float | None = None, patient: bool = False
    ) -> Iterator[Message]:
        """Send, and return an iterator over the replies as they come, none of which is held here.

        It ends with the last reply, the timeout, or the grace after ``server.min_replies`` replies. Where it is
        ``patient`` (the handshake, the closing message), nodes that still owe a reply are waited for first, and
        stragglers until the timeout.
        """
        begin = time.monotonic()
        deadline = float("inf") if timeout is None else begin + timeout
        messages = list(messages)
        if not messages:  # what is open stays so
            self._drop_late()
            return iter(())
        self._leave()
        while patient and self._late and time.monotonic() < deadline:
            self._drop_late()
            _pause(begin)
        kind, waiting = messages[0].metadata.message_type, set(self.push_messages(messages))
        return self._awaited(kind, waiting, begin, deadline, None if patient else self._settings.server.grace)

    def _awaited(
        self, kind: str, waiting: set[str], begin: float, deadline: float, grace: float | None
    ) -> Iterator[Message]:
        """Yield replies of the exchange ``kind`` until none of ``waiting`` is missing, or it is time to end."""
        answered, look = 0, begin + LOOK
        while waiting and time.monotonic() < deadline:
            if time.monotonic() > look:
                self._give_up(self._anew({home for home, _ in self._open.values()}), RESTARTED)
                look = time.monotonic() + LOOK
            before = len(waiting)
            for reply in self._coming():
                waiting.discard(reply.metadata.reply_to_message_id)
                answered += reply.has_content()
                yield reply
            if grace is not None and answered >= self._settings.server.min_replies:
                deadline = min(deadline, time.monotonic() + grace)
                grace = None
            if waiting and len(waiting) == before:
                _pause(begin)
        self._leave()
        self.bytes.ended(kind, time.monotonic() - begin)

    def collect(self, messages: Sequence[Message], *, most: int | None, timeout: float) -> list[Message]:
        """Send, and return the replies that come in time, or at least ``most`` of them, to earlier messages too.

        What has not come stays open for the next call; an ``exchange`` in between takes it for late. Clients whose
        nodes owe a reply must not be asked. It ends as soon as no reply is open.
        """
        begin = time.monotonic()
        self.push_messages(messages)
        replies: list[Message] = []
        look = begin
        while True:
            if time.monotonic() >= look:
                homes = {home for home, _ in self._open.values()}
                self._give_up(homes - set(self._grid.get_node_ids()), GONE)
                self._give_up(self._anew(homes), RESTARTED)
                look = time.monotonic() + LOOK
            replies += self._coming()
            enough = most is not None and sum(m.has_content() for m in replies) >= most
            if enough or not self._open or time.monotonic() >= begin + timeout:
                return replies
            _pause(begin)

    # --- one message a node

    @property
    def _at_once(self) -> int:
        """How many clients' messages are handled at once."""
        return max(1, REPLY_LIMIT // self._size)

    def _coming(self) -> Iterator[Message]:
        """Yield the replies that are there now, of a few nodes at a time, and errors for those that cannot answer."""
        names = list(self._open)
        while names:
            some, names = names[: self._at_once], names[self._at_once :]
            came = {reply.metadata.reply_to_message_id: reply for reply in self._grid.pull_messages(some)}
            ready = []
            for name in [name for name in some if name in came]:
                home, inner = self._open.pop(name)
                yield from self._split(came.pop(name), inner)
                ready.append(home)
            self._send(ready)
        lost, self._arrived = self._arrived, {}
        yield from lost.values()

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
                header = {**self._header, REMEMBERED: json.dumps(known)} if known else self._header
                content = fold(contents, header, bundle=self._handshake.hosts.named)
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
        rows: dict[str, RecordDict] = {}
        if self.plain:
            answers: dict[str, RecordDict | Error] = {self.client(asked[0].metadata.dst_node_id).id: reply.content}
        else:
            try:
                rows = self._summed(reply.content, asked)
                answers = {**unfold(reply.content), **rows}
                kept = remembered(records(reply.content, ConfigRecord)[HEADER]) if self.hosted else {}
            except InvalidInputError as error:
                return [Message(Error(LOST, str(error)), reply_to=m) for m in asked]
            self.remembered |= {client: kept[client] for client in answers if client in kept}
        split = []
        limit = self._settings.server.max_reply_mb * 2**20
        for message in asked:
            lost, client = Error(LOST, "its node answered without it"), self.client(message.metadata.dst_node_id).id
            answer = answers.get(client, lost)
            if isinstance(answer, RecordDict) and ROW in answer and client not in rows:
                answer = Error(LOST, f"its reply has a record '{ROW}', as if a host had added it up; none has")
            if isinstance(answer, Error) and answer.code == STATE and self.hosted:
                raise RunError(answer.reason)
            if isinstance(answer, RecordDict) and (size := size_of(answer)) > limit:
                answer = Error(LOST, f"its reply has {size / 2**20:.1f} MB; server.max_reply_mb is {limit / 2**20:g}")
            if isinstance(answer, RecordDict):
                self.bytes.count("up", answer)
                self._size = max(self._size, size)
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

    def _give_up(self, lost_nodes: Collection[int], reason: str) -> None:
        """Answer with errors for nodes that will not answer any more."""
        for name in [name for name, (home, _) in self._open.items() if home in lost_nodes]:
            home, inner = self._open.pop(name)
            for message in chain(inner, *self._queues.pop(home, ())):
                lost = Message(Error(LOST, reason), reply_to=message)
                self._arrived[message.metadata.message_id] = lost

    def _leave(self) -> None:
        """Take what is still open for late."""
        self._late |= {name: home for name, (home, _) in self._open.items()}
        self._open, self._queues, self._arrived = {}, {}, {}

    def _drop_late(self) -> None:
        """Take replies that came too late out of Flower's store and forget them."""
        if self._late:
            owing = set(self._late.values())
            gone = owing - set(self._grid.get_node_ids()) | self._anew(owing)
            for reply in self._grid.pull_messages(list(self._late)):
                self._late.pop(reply.metadata.reply_to_message_id, None)
            self._late = {name: home for name, home in self._late.items() if home not in gone}


def _pause(begin: float, sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait a little: never more than 2 % of the time already waited, nor than a second."""
    sleep(max(0.01, min(1.0, 0.02 * (time.monotonic() - begin))))
