"""What a client adds to a secure sum, as one list of numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fd_flower.wire import Payload
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
