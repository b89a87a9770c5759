"""Grids in this process: of hosts, of devices, one that records what it carries, and nodes and clients that fail."""

import pickle
from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from fd_flower import methods
from fd_flower.core.flower import with_content
from fd_flower.engine import InProcessGrid
from fd_flower.wire.envelope import HANDSHAKE, HEADER, fold, records, unfold
from fd_flower.wire.exact import SUM

from .tasks import TASK


def hosts(method: str, nodes: int = 1) -> InProcessGrid:
    """Return a grid whose nodes host clients of a method."""
    return InProcessGrid(methods.client_app(method), nodes)


def devices(method: str, folder: str, *names: str, **about: Any) -> InProcessGrid:
    """Return a grid with one device a name, whose samples are the toy task's; ``about`` is more of their configs."""
    own = [{"client-id": n, "data-path": "/toys", "state-dir": f"{folder}/{n}", **about} for n in names]
    return InProcessGrid(methods.client_app(method), node_configs=own, run_config={"task": TASK})


class Pickled(ClientApp):
    """An app whose messages and replies are pickled on their way, as between processes."""

    def __init__(self, app: ClientApp) -> None:
        super().__init__()
        self._app = app

    def __call__(self, message: Message, context: Context) -> Message:
        return pickle.loads(pickle.dumps(self._app(pickle.loads(pickle.dumps(message)), context)))


class Noted(InProcessGrid):
    """A grid that notes what it carries, pickled."""

    def __init__(self, app: ClientApp, *args: Any, **more: Any) -> None:
        super().__init__(Pickled(app), *args, **more)
        self.sent: list[Message] = []
        self.replies: list[Message] = []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        messages = list(messages)
        self.sent += messages
        return super().push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        replies = super().pull_messages(message_ids)
        self.replies += replies
        return replies


class Moody(InProcessGrid):
    """A grid whose nodes can be gone (messages to them are refused silently) or slow (replies after so many looks).

    Attributes
    ----------
    gone : set[int]
        Nodes that are not there.
    slow : dict[int, int]
        Node -> how often its reply to a message is looked for before it is there; the handshake is always answered.
    late : list[Message]
        Replies that came after the first look.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.gone: set[int] = set()
        self.slow: dict[int, int] = {}
        self.late: list[Message] = []
        self._looks: dict[str, int] = {}

    def get_node_ids(self) -> list[int]:
        return [node for node in super().get_node_ids() if node not in self.gone]

    def add(self, node: int, node_config: dict[str, Any]) -> None:
        """Let a node come."""
        like = next(iter(self._contexts.values()))
        self._contexts[node] = Context(1, node, node_config, RecordDict(), like.run_config)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        there = [m for m in messages if m.metadata.dst_node_id not in self.gone]
        ids = super().push_messages(there)
        for message in there:
            asked = message.metadata.message_type != HANDSHAKE
            self._looks[message.metadata.message_id] = self.slow.get(message.metadata.dst_node_id, 0) if asked else 0
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        ready = []
        for name in [n for n in message_ids if n in self._looks]:
            self._looks[name] -= 1
            if self._looks[name] < 0:
                ready.append(name)
                del self._looks[name]
        return super().pull_messages(ready)


class Spoilt(ClientApp):
    """An app with clients that fail: ``spoil(client, round, content)`` is sent instead (round 0: who it is).

    It answers with single replies where a sum is asked for.
    """

    def __init__(self, app: ClientApp, spoil: Callable[[str, int, RecordDict], RecordDict | Error]) -> None:
        super().__init__()
        self._app = app
        self._spoil = spoil

    def __call__(self, message: Message, context: Context) -> Message:
        answer = self._app(with_content(message, unsummed(message.content)), context)
        asked = unfold(message.content)
        if not asked:  # the node is asked who it is
            return answer
        spoilt = {
            name: self._spoil(name, int(asked[name]["config"]["server-round"]), content)  # type: ignore[index, arg-type]
            for name, content in unfold(answer.content).items()
        }
        return Message(fold(spoilt, {}), reply_to=message)


def unsummed(content: RecordDict) -> RecordDict:
    """Return what a host is sent without the word that it is to add up what its clients reply."""
    header = records(content, ConfigRecord)[HEADER]
    asked = {name: {k: r for k, r in own.items() if k != SUM} for name, own in unfold(content).items()}
    return fold(
        {name: RecordDict(own) for name, own in asked.items()}, {k: v for k, v in header.items() if k != "layout"}
    )


def counted(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Count a client's messages in Flower's state, and send it with the reply's metrics: a mod."""
    count = context.state.setdefault("count", ConfigRecord({"messages": 0}))
    count["messages"] += 1  # type: ignore[index, operator]
    answer = call_next(message, context)
    answer.content["metrics"]["count"] = count["messages"]  # type: ignore[index]
    return answer


def counts(lines: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Return what each client has counted, round by round."""
    found: dict[str, list[int]] = {}
    for line in lines:
        if "client" in line and not line.get("closing"):
            found.setdefault(line["client"], []).append(line["metrics"]["count"])
    return found
