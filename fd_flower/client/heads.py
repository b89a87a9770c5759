"""A client's side of methods in which the server trains the head: its head replaces the client's own."""

from dataclasses import dataclass
from typing import Any

from flwr.app import Context, Message

from fd_flower.client.steps import reply
from fd_flower.client.turn import Turn
from fd_flower.config import ClientConfig
from fd_flower.models import feature_model
from fd_flower.wire import Head


@dataclass(frozen=True)
class Config(ClientConfig):
    """The options of a client that takes the server's head."""

    take_head: bool = True
    """Whether the server's head replaces the client's own; without it, the method is `local`."""


def receive(message: Message, context: Context) -> Turn[Any]:
    """Take the server's head into the client's model."""
    turn: Turn[Any] = Turn.of(message, context)
    head = Head.need(message.content)
    if turn.config.take_head:
        feature_model(turn.model).head.load_state_dict(head.tensors())
    return turn


def evaluate(message: Message, context: Context) -> Message:
    """Measure the personal model with the server's last head; for ``app.evaluate()``."""
    turn = receive(message, context)
    turn.evaluate("received")
    return reply(message, turn)
