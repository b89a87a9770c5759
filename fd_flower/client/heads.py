"""A client's side of methods in which the server trains the head: its head replaces the client's own."""

from dataclasses import dataclass
from typing import Any

from fd_flower.client.turn import Turn
from fd_flower.config import ClientConfig
from fd_flower.models import feature_model
from fd_flower.wire import Head


@dataclass(frozen=True)
class Config(ClientConfig):
    """The options of a client that takes the server's head."""

    take_head: bool = True
    """Whether the server's head replaces the client's own; without it, the method is `local`."""


def take(turn: Turn[Any], head: Head) -> None:
    """Load the server's head into the client's model, unless ``client.take_head`` keeps the client's own."""
    if turn.config.take_head:
        feature_model(turn.model).head.load_state_dict(head.tensors())
