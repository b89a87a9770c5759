"""How much of a federation is behind a round's replies."""

from collections.abc import Sequence
from typing import Any

from fd_flower.core.client import Client
from fd_flower.server.method import Method
from fd_flower.wire.replies import Reply


def replied(method: Method[Any], replies: Sequence[Reply]) -> float:
    """Return the share of the federation that has replied, above 0 to 1: by examples, as means are weighted.

    Where numbers of examples are unknown, and under differential privacy, which weighs all clients the same, it is by
    clients: |S| / N.
    """
    counted = method.settings.privacy.dp == "none" and all(client.examples for client in method.clients)

    def size(clients: Sequence[Client]) -> int:
        return sum(client.examples if counted else 1 for client in clients)

    return size([client for reply in replies for client in reply.clients]) / size(method.clients)
