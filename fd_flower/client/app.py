"""The ClientApp that puts a client's turn around each message."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fd_flower.client.node import Node, introduction
from fd_flower.client.turn import Turn, _current
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import seed_of, seeded
from fd_flower.privacy.party import veil
from fd_flower.training import one_thread
from fd_flower.wire.envelope import HANDSHAKE, HEADER, fold, records, unfold

RAISED = 2
"""Flower's error code for a client that raised."""


class App(ClientApp):
    """A ClientApp that answers the handshake and puts a client's turn around each message.

    One node may host many clients: the message that comes names them, and each has its turn after the other on
    resident models and data. A client that raises costs its own reply alone.
    """

    def __call__(self, message: Message, context: Context) -> Message:
        """Run every client that the message names, and answer for all of them in one message."""
        header = records(message.content, ConfigRecord).get(HEADER)
        if header is None:
            raise InvalidInputError(
                "this app receives FD-Flower's messages; to drive it with another strategy, hand that strategy "
                "fd_flower.server.host_grid.HostGrid.open(grid, ...) as its grid"
            )
        contents = unfold(message.content)
        if message.metadata.message_type == HANDSHAKE and not contents:
            return Message(RecordDict({HEADER: introduction(header, context)}), reply_to=message)
        node = Node(header, context)
        with one_thread():
            answers = {client: self._answer(client, content, node, message) for client, content in contents.items()}
        return Message(fold(answers, {}), reply_to=message)

    def _answer(self, client: str, content: RecordDict | Error, node: Node, message: Message) -> RecordDict | Error:
        """Run one client's turn and return what it says, or its error."""
        try:
            if isinstance(content, Error):
                return content
            if message.metadata.message_type == HANDSHAKE:
                return RecordDict({"client": node.capabilities(client)})
            hiding = veil(node, client, content)
            if (said := hiding.answer(message.metadata.message_type)) is not None:
                return said
            inner = copy.copy(message)
            inner.__dict__ = dict(message.__dict__)
            inner.content = content
            turn: Turn[Any] = Turn(node.world, client, node.architecture(client), content, node.memory(client))
            with _around(turn):
                answer = super().__call__(inner, node.context_of(client))
            if answer.has_error():
                return answer.error
            turn.close()
            return hiding.over(message.metadata.message_type, answer.content)
        except Exception as error:
            # A client's failure is that client's alone, whatever it is; the server names it and goes on.
            return Error(RAISED, f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")


@contextmanager
def _around(turn: Turn) -> Iterator[None]:
    """Make a turn the current one, with global random numbers (dropout) that are a function of it."""
    token = _current.set(turn)
    seed = seed_of(turn.world.settings.run.seed, "turn", turn.client, turn.round)
    try:
        with seeded(seed, turn.world.device):
            yield
    finally:
        _current.reset(token)
