"""A server's half by hand: a method's strategy outside of any run, and the replies that it gets."""

from typing import Any

from torch import Tensor

from fd_flower import methods
from fd_flower.core.client import Client
from fd_flower.server import Run, Strategy
from fd_flower.wire import Payload, pack
from fd_flower.wire.replies import Reply


def client(name: str, **about: Any) -> Client:
    """Return a client whose id is its number."""
    return Client(name, int(name), **about)


def reply_of(name: str, *payloads: Payload, examples: int = 1, model: str = "") -> Reply:
    """Return a client's reply as ``aggregate`` gets it."""
    return Reply(client(name, model=model), pack(*payloads), examples)


def strategy(method: str, index: Tensor | None = None, **changes: Any) -> Strategy:
    """Return a method's strategy with the recipe's values and these changes.

    ``index`` is what the round is about, where the method's clients predict on public samples.
    """
    made = methods.strategy(method)(methods.config(method, "server", **changes), run=Run(device="cpu"))
    if index is not None:
        made.round_index = index
    return made
