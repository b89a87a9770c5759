"""Attacks on the labels of the attackers' own training samples; what they send is then as they trained."""

import torch
from torch import Tensor

from fd_flower.attacks.base import DATA, attack


@attack(DATA)
def label_flip(classes: int) -> Tensor:
    """Train on class C - 1 - c in place of class c."""
    return torch.arange(classes - 1, -1, -1)


@attack(DATA)
def label_shift(classes: int) -> Tensor:
    """Train on class c + 1 in place of class c, and on class 0 in place of the last."""
    return torch.arange(1, classes + 1) % max(classes, 1)
