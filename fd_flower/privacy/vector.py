"""What a client adds to a sum, as one list of numbers, and under differential privacy what the sum stands for."""

from collections.abc import Sequence

import torch
from flwr.app import RecordDict
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.privacy.noise import clipped
from fd_flower.wire import Clippable, Payload, Summable
from fd_flower.wire.summable import ordered


def flat(payloads: Sequence[Payload], share: float) -> Tensor:
    """Return what a client with this share of the examples adds: float64 [L].

    Raises
    ------
    InvalidInputError
        For a kind that cannot be summed: it would be sent unchanged.
    """
    parts = [p.summand(share) for p in ordered(payloads, ", so it is not sent under privacy.sum")]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def bounded(payloads: Sequence[Payload], sent: RecordDict | Sequence[Payload], clip: float) -> Tensor:
    """Return what a client adds under differential privacy: float64 [L], of L2 norm ``clip`` at most.

    Parameters
    ----------
    sent : RecordDict | Sequence[Payload]
        What the client was sent: its difference from that is what is clipped, kind by kind.

    Raises
    ------
    InvalidInputError
        For a kind whose difference is not known: it would be sent unchanged.
    """
    parts = [p.difference(type(p).find(sent) or p) for p in _clippable(payloads)]
    return clipped(torch.cat([*parts, torch.empty(0, dtype=torch.float64)]), clip)


def length_of(blanks: Sequence[Payload]) -> int:
    """Return how many numbers ``bounded`` has of payloads like these."""
    return len(bounded(blanks, blanks, 1.0))


def released(blanks: Sequence[Payload], total: Tensor, clients: int) -> list[Summable]:
    """Return what a noisy sum [L] of so many clients' ``bounded`` stands for, given what all were sent."""
    starts = _clippable(blanks)
    parts = total.split([p.difference(p).numel() for p in starts])
    return [p.moved(part, clients) for p, part in zip(starts, parts, strict=True)]


def _clippable(payloads: Sequence[Payload]) -> list[Clippable]:
    for payload in payloads:
        if not isinstance(payload, Clippable):
            raise InvalidInputError(f"{payload.name} has no bound, so it is not sent under privacy.dp")
    return sorted((p for p in payloads if isinstance(p, Clippable)), key=lambda p: p.kind)
