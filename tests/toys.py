"""Small things that tests of the core play with: a task of eight numbers, grids that misbehave, clients that fail."""

import copy
import pickle
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from flwr.serverapp.strategy import Result
from torch import Tensor
from torch.nn import BatchNorm1d, Dropout, Linear, Module, Sequential

from fd_flower import config, engine, methods
from fd_flower.core.client import Client
from fd_flower.core.rng import torch_rng
from fd_flower.core.samples import Data, Samples
from fd_flower.engine import InProcessGrid
from fd_flower.server import Strategy
from fd_flower.tasks.task import Task
from fd_flower.wire import Payload, pack
from fd_flower.wire.envelope import HANDSHAKE, fold, unfold
from fd_flower.wire.replies import Reply

CLASSES, INPUTS, FEATURES = 3, 8, 4

TINY = {
    "data.clients": 3,
    "data.public_size": 100,
    "data.public_batch": 32,
    "model.name": "mlp",
    "server.rounds": 2,
    "client.steps": 2,
    "client.epochs": 1,
}


SHORT = {
    "kdstudy": {"client.convergence": 2, "client.public_steps": 2},
    "feddf": {"server.distill_steps": 2},
    "fede4rag": {
        "data.source": "companies",
        "data.partition": "iid",
        "data.per_client": 30,
        "model.name": "hashed:8",
        "client.trainable": "all",
        "run.keep": "false",  # its recipe keeps the clients,
        "privacy.sum": "none",  # and hides what they say
    },
    "fedlgd": {
        "client.distill_warmup": 2,
        "client.distill_refresh": 1,
        "client.distill_model": "mlp",  # the toy task's inputs are no images
        "client.images": 2,
        "server.images": 2,
        "server.match_every": 2,
        "server.match_steps": 2,
    },
}
"""What a method needs beside these to be as short as the others."""


def short(method: str) -> str:
    """Return what ``set`` says for a run that takes a tenth of a second."""
    return " ".join(f"{key}={value}" for key, value in {**TINY, **SHORT.get(method, {})}.items())


def tiny(method: str, changes: str = "", *, task: str = "") -> config.Settings:
    """Return the settings of a short run; ``changes`` win."""
    return config.settings(method, f"{short(method)} {changes}", task=task)


def toy(method: str, changes: str = "") -> config.Settings:
    """Return tiny settings on the toy task; those of a method that does not tell classes apart have their own data."""
    if not classifies(method):
        return tiny(method, changes)
    return tiny(method, f"model.name=small {changes}", task="toys:task")


def classifies(method: str) -> bool:
    """Whether a method can learn to tell classes apart."""
    return "classification" in methods.strategy(method).requires.tasks


def play(settings: config.Settings, **also: Any) -> list[dict[str, Any]]:
    """Run in this process and return the lines of ``rounds.jsonl``."""
    lines: list[dict[str, Any]] = []
    engine.run(settings, on_line=lines.append, **also)
    return lines


def run(
    method: str, changes: str = "", grid: InProcessGrid | None = None, **start: Any
) -> tuple[Strategy, Result, list[dict[str, Any]]]:
    """Run a method on the toy task, on hosts if nothing else; return the strategy, Flower's result and the lines."""
    return begin(toy(method, changes), grid or hosts(method), **start)


def begin(
    settings: config.Settings, grid: InProcessGrid, **start: Any
) -> tuple[Strategy, Result, list[dict[str, Any]]]:
    """Run settings on a grid."""
    lines: list[dict[str, Any]] = []
    strategy = Strategy.for_method(settings)
    strategy.on_line = lines.append
    return strategy, strategy.start(grid, **start), lines


def rounds(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines about whole rounds."""
    return [line for line in lines if "asked" in line and not line.get("closing")]


def figures(lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return lines without what depends on the clock or on how many nodes there are."""
    kept = [{k: v for k, v in line.items() if k != "seconds"} for line in copy.deepcopy(list(lines))]
    for line in kept:
        line.get("bytes", {}).pop("wire", None)
        for exchange in line.get("exchanges", {}).values():
            exchange.pop("seconds", None)
    return kept


# --- a task


class Small(Module):
    """Eight numbers, one hidden layer, three classes."""

    def __init__(self, size: int = FEATURES, classes: int = CLASSES, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = Sequential(Linear(INPUTS, size), Dropout(dropout))
        self.head = Linear(size, classes)

    def features(self, x: Tensor) -> Tensor:
        return self.body(x).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def samples(name: str, number: int, *, labels: bool = True) -> Samples:
    """Return points around the class's own corner, a function of the name."""
    rng = torch_rng("toys", name)
    y = torch.randint(CLASSES, (number,), generator=rng)
    x = torch.randn(number, INPUTS, generator=rng) + 2.0 * torch.nn.functional.one_hot(y, INPUTS)
    return Samples(x, y if labels else None)


def model(name: str) -> Module:
    """Return an architecture: ``wide`` has other features, ``fourth`` another class, ``plain`` no features at all.

    ``forgetful`` drops out, and ``normal`` normalizes batches.
    """
    if name == "plain":
        return Linear(INPUTS, CLASSES)
    if name == "normal":
        return Sequential(Linear(INPUTS, FEATURES), BatchNorm1d(FEATURES), Linear(FEATURES, CLASSES))
    dropout = 0.5 if name == "forgetful" else 0.0
    return Small(6 if name == "wide" else FEATURES, CLASSES + (name == "fourth"), dropout)


def own(client: str) -> Data:
    return Data(samples(f"{client} train", 20), samples(f"{client} validation", 6), samples(f"{client} test", 9))


def task() -> Task:
    """Return the toy task, as a user would name it in the run's configuration."""
    return Task(model, own, lambda: samples("public", 40, labels=False), samples("test", 30))


# --- replies by hand


def client(name: str, **about: Any) -> Client:
    return Client(name, int(name), **about)


def said(name: str, *payloads: Payload, examples: int = 1) -> Reply:
    """Return a reply as ``aggregate`` gets it."""
    return Reply(client(name), pack(*payloads), examples)


# --- grids


def hosts(method: str, nodes: int = 1) -> InProcessGrid:
    """Return a grid whose nodes host clients of a method."""
    return InProcessGrid(methods.client_app(method), nodes)


def devices(method: str, folder: str, *names: str, **about: Any) -> InProcessGrid:
    """Return a grid with one device a name, whose samples are the toy task's; ``about`` is more of their configs."""
    own = [{"client-id": n, "data-path": "/toys", "state-dir": f"{folder}/{n}", **about} for n in names]
    return InProcessGrid(methods.client_app(method), node_configs=own, run_config={"task": "toys:task"})


class Noted(InProcessGrid):
    """A grid that notes what it carries; messages and replies are pickled on their way, as between processes."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.sent: list[Message] = []
        self.replies: list[Message] = []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        messages = list(messages)
        self.sent += messages
        return super().push_messages(messages)

    def _reply(self, message: Message) -> Message:
        answer = pickle.loads(pickle.dumps(super()._reply(pickle.loads(pickle.dumps(message)))))
        self.replies.append(answer)
        return answer


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
    """An app with clients that fail: ``spoil(client, round, content)`` is sent instead (round 0: who it is)."""

    def __init__(self, app: ClientApp, spoil: Callable[[str, int, RecordDict], RecordDict | Error]) -> None:
        super().__init__()
        self._app = app
        self._spoil = spoil

    def __call__(self, message: Message, context: Context) -> Message:
        answer = self._app(message, context)
        asked = unfold(message.content)
        if not asked:  # the node is asked who it is
            return answer
        spoilt = {
            name: self._spoil(name, int(asked[name]["config"]["server-round"]), content)  # type: ignore[index, arg-type]
            for name, content in unfold(answer.content).items()
        }
        return Message(fold(spoilt, {}), reply_to=message)


def counted(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Count a client's messages in Flower's state, and tell in the reply's metrics: a mod."""
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
