"""Losses that compare the student's logits with the teacher's, each row taken about its own mean.

The centring makes log-probabilities and logits the same teacher: they differ by one number a row. Both losses are
means over classes and batch, as in ``torch.nn.functional`` and in FedMD's code: a sum over classes makes SGD at
ordinary learning rates diverge.
"""

from dataclasses import dataclass
from typing import final

import torch.nn.functional as F
from torch import Tensor

from fd_flower.objectives.base import Samplewise, floored


@final
@dataclass(frozen=True)
class MSE(Samplewise):
    """Mean squared difference of centered logits (Ba and Caruana 2014, arXiv 1312.6184)."""

    def rows(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """Return the mean over classes [B]; labels are not looked at."""
        return F.mse_loss(*_centered(student, teacher), reduction="none").mean(1)


@final
@dataclass(frozen=True)
class MAE(Samplewise):
    """Mean absolute difference of centered logits, FedMD's distillation loss (Li and Wang 2019, arXiv 1910.03581)."""

    def rows(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """Return the mean over classes [B]; labels are not looked at."""
        return F.l1_loss(*_centered(student, teacher), reduction="none").mean(1)


def _centered(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sides [B, C] less the mean of each row, the teacher without -inf."""
    teacher = floored(teacher)
    return student - student.mean(1, keepdim=True), teacher - teacher.mean(1, keepdim=True)
