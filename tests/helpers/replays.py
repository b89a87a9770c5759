"""A method's rounds played again and again from the replies of one real run, without any training at clients."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Result
from torch import Tensor

from fd_flower import methods
from fd_flower.config import Settings
from fd_flower.core.flower import with_content
from fd_flower.engine import InProcessGrid
from fd_flower.server import Strategy
from fd_flower.server.driver import Driver
from fd_flower.wire import Knowledge
from fd_flower.wire.envelope import fold, unfold

from .grids import unsummed

Change = Callable[[str, RecordDict], RecordDict | Error]
"""Makes of a client's id and its reply what its node answers: the whole message, or an error in the reply's place."""

CLIENTS = ("0", "1", "2")


class Replaying(ClientApp):
    """An app that writes down what a method's own app replies, and once it knows a reply gives it from memory.

    Attributes
    ----------
    changes : dict[str, Change]
        Client id -> what becomes of its replies to ``train``.
    """

    def __init__(self, app: ClientApp) -> None:
        super().__init__()
        self._app = app
        self._known: dict[tuple[Any, ...], RecordDict] = {}
        self.changes: dict[str, Change] = {}

    def __call__(self, message: Message, context: Context) -> Message:
        asked = unfold(message.content)
        if not asked:  # the node is asked who it is
            return self._app(message, context)
        ((client, content),) = asked.items()  # a node a client
        config: Any = content["config"]  # type: ignore[index]
        place = (message.metadata.message_type, client, config["server-round"], config.get("closing", False))
        if place not in self._known:
            answer = copy.deepcopy(self._app(with_content(message, unsummed(message.content)), context))
            found = unfold(answer.content)[client]
            assert isinstance(found, RecordDict), f"{place}: {found.reason}"
            self._known[place] = found
        change = self.changes.get(client)
        if change is None or message.metadata.message_type != "train":
            return Message(fold({client: self._known[place]}, {}), reply_to=message)
        made = change(client, self._known[place])
        return Message(fold({client: made}, {}) if isinstance(made, Error) else made, reply_to=message)


class Replay:
    """A run of three clients, a node each, whose rounds can be played any number of times.

    Parameters
    ----------
    settings : Settings
        The run.
    rounds : int
        How many rounds can be played.
    """

    def __init__(self, settings: Settings, rounds: int = 2) -> None:
        self.app = Replaying(methods.client_app(settings.method))
        self.strategy = Strategy.for_method(settings)
        self.lines: list[dict[str, Any]] = []
        self.strategy.on_line = self.lines.append
        grid = InProcessGrid(self.app, len(CLIENTS), run_config={"task": settings.task})
        self._driver = self.strategy._driver = Driver(self.strategy, grid, 60.0)
        self._driver._begin(None)
        self._before: dict[int, Knowledge] = {}
        for number in range(1, rounds + 1):
            self._before[number] = self.strategy.knowledge
            self.play(number)

    def play(self, number: int, **changes: Change) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Play a round in which these clients' replies are changed; return what the server then knows, and its line."""
        self.app.changes = {name.removeprefix("client"): change for name, change in changes.items()}
        self.strategy.knowledge = self._before[number]
        self.strategy.show()
        self.lines.clear()
        result = Result()
        result.arrays = self.strategy.show()
        self._driver._train(number, result, ConfigRecord())
        self._driver.record.write(None, None)
        return self.strategy.knowledge.flat(), self.lines[0]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two states are the same, bit for bit."""
    return one.keys() == other.keys() and all(
        tensor.dtype is other[key].dtype and torch.equal(tensor, other[key]) for key, tensor in one.items()
    )
