"""What is summed, as one list of numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire import Payload, Summable


def ordered(payloads: Sequence[Payload]) -> list[Summable]:
    """Return payloads in the order in which both sides lay them end to end.

    Raises
    ------
    InvalidInputError
        For a kind that cannot be summed: it would be sent unchanged.
    """
    for payload in payloads:
        if not isinstance(payload, Summable):
            raise InvalidInputError(f"{payload.name} cannot be summed, so it is not sent under privacy.sum")
    return sorted((p for p in payloads if isinstance(p, Summable)), key=lambda p: p.kind)


def flat(payloads: Sequence[Payload], share: float) -> Tensor:
    """Return what a client with this share of the examples adds: float64 [L]."""
    parts = [p.summand(share) for p in ordered(payloads)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def restored(blanks: Sequence[Summable], total: Tensor, share: float, clients: int) -> list[Payload]:
    """Return what a sum [L] stands for, given payloads of the same shapes, the clients' shares and their number."""
    sizes = [p.summand(1.0).numel() for p in ordered(blanks)]
    parts = total.split(sizes)
    return [p.summed(part, share, clients) for p, part in zip(ordered(blanks), parts, strict=True)]
