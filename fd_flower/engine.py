"""The in-process engine: the same strategies and client apps in one process, without Ray and without pickling."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fd_flower.client.app import RAISED
from fd_flower.config import Settings, registry
from fd_flower.core.flower import identify, name_message
from fd_flower.results import RunFolder
from fd_flower.results.callback import Callback
from fd_flower.server import Strategy


class InProcessGrid(Grid):
    """A Grid whose nodes are calls of one ClientApp in this process.

    Parameters
    ----------
    app : ClientApp
        What every node runs.
    nodes : int
        Number of nodes; one is enough for an app that hosts.
    run_config, node_configs
        What the apps find in their contexts; ``node_configs`` has one mapping a node.
    """

    def __init__(
        self,
        app: ClientApp,
        nodes: int = 1,
        run_config: dict[str, Any] | None = None,
        node_configs: list[dict[str, Any]] | None = None,
    ) -> None:
        configs = node_configs or [{"partition-id": i, "num-partitions": nodes} for i in range(nodes)]
        self.app = app
        self._contexts = {
            i + 1: Context(1, i + 1, dict(config), RecordDict(), dict(run_config or {}))
            for i, config in enumerate(configs)
        }
        self._waiting: dict[str, Message] = {}
        self._run: Any = None
        identify()

    def set_run(self, run: Any) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Any:
        """The run that was set, or None."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the nodes' ids, from 1."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Keep messages until their replies are asked for."""
        ids = []
        for message in messages:
            name = name_message(message)
            self._waiting[name] = message
            ids.append(name)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Run the apps that these messages are for, and return their replies."""
        return [self._reply(self._waiting.pop(name)) for name in message_ids if name in self._waiting]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Run the apps that these messages are for, and return their replies."""
        return self.pull_messages(self.push_messages(messages))

    def _reply(self, message: Message) -> Message:
        try:
            return self.app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            # As Flower's engines do it: what a client app raises becomes an error reply.
            return Message(Error(RAISED, f"{type(error).__name__}: {error}"), reply_to=message)


def run(
    settings: Settings,
    *,
    out: str | Path | None = None,
    on_line: Callable[[dict[str, Any]], None] | None = None,
    callbacks: Sequence[Callback] = (),
) -> RunFolder | None:
    """Run a method in this process.

    Parameters
    ----------
    settings : Settings
        The method and its options.
    out : str | Path | None
        Folder of the run; None: ``run.out``, and where that is None nothing is written.
    on_line : Callable | None
        Receives every line of ``rounds.jsonl`` when it is written.
    callbacks : Sequence[Callback]
        Callbacks of the run, in addition to the trackers of ``run.track``.

    Returns
    -------
    RunFolder | None
        The run's folder, where there is one.
    """
    if out is not None and not settings.run.resume:
        settings = replace(settings, run=replace(settings.run, out=str(Path(out).absolute())))
    strategy = Strategy.for_method(settings)
    strategy.on_line, strategy.callbacks = on_line, tuple(callbacks)
    grid = InProcessGrid(registry.client_app(settings.method), run_config={"task": settings.task})
    strategy.start(grid)
    where = settings.run.resume or settings.run.out
    return RunFolder.open(where) if where else None
