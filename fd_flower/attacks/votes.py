"""Attacks on which public samples a client claims: functions from a mask, bool [N], to another."""

import torch
from torch import Tensor

from fd_flower.attacks.base import VOTES, attack


@attack(VOTES)
def claim_every(claimed: Tensor) -> Tensor:
    """Claim every public sample.

    On samples that the client itself would not claim it sends the mean of its predictions on those that it would.
    """
    return torch.ones_like(claimed)


@attack(VOTES)
def claim_none(claimed: Tensor) -> Tensor:
    """Claim no public sample, and so predict none."""
    return torch.zeros_like(claimed)
