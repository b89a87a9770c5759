"""What the server has learned is tested before it is kept: a poisoned state would outlive who poisoned it."""

from collections.abc import Sequence

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire import Knowledge
from fd_flower.wire.replies import Reply


def fault(knowledge: Knowledge, largest: float) -> str:
    """Return what of the knowledge cannot be kept: entries that are not finite, or larger than this; "": nothing."""
    try:
        for payload in knowledge:
            payload.check_size(largest)
    except InvalidInputError as error:
        return str(error)
    return ""


def suspects(replies: Sequence[Reply]) -> str:
    """Return who sent the largest numbers, largest first."""
    if any(reply.members for reply in replies):
        return "whose part did it is hidden in the sum"
    ranked = sorted(((r.client.id, r.size) for r in replies), key=lambda pair: -pair[1])
    return "largest numbers sent: " + ", ".join(f"client {client} {size:.3g}" for client, size in ranked[:3])
