"""The teacher's ranking of the classes, as a list of choices (Bassam et al. 2025, arXiv 2506.12542)."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fd_flower.objectives.base import Samplewise, above_zero, likeliest


@final
@dataclass(frozen=True)
class PLD(Samplewise):
    """Plackett-Luce distillation: choose the label first, then class after class as the teacher ranks them.

    ``sum_k w_k (-s_k + logsumexp_{l >= k} s_l)`` over the classes in that order, ``w = softmax(t / tau)``: each choice
    counts by the teacher's confidence in it. A teacher that is sure of the label makes it the cross-entropy; it is
    meant in place of one, not next to it. Without labels the order is the teacher's own.
    """

    tau: float = 1.0
    """Temperature of the weights; the student's logits are not softened."""

    def __post_init__(self) -> None:
        """Check the range."""
        above_zero("pld", "tau", self.tau)

    def rows(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """Return the loss of each sample's ranking [B]."""
        chosen = likeliest(teacher, labels).unsqueeze(1)
        order = teacher.scatter(1, chosen, torch.inf).argsort(dim=1, descending=True, stable=True)
        ranked = student.gather(1, order)
        left = ranked.flip(1).logcumsumexp(1).flip(1)
        weight = (teacher / self.tau).softmax(1).gather(1, order)
        return (weight * (left - ranked)).sum(1)
