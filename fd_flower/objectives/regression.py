"""Losses that compare the student's logits with the teacher's, each row taken about its own mean.

The centring makes log-probabilities and logits the same teacher: they differ by one number a row. Both losses are
means over classes and batch, as in ``torch.nn.functional`` and in FedMD's code: a sum over classes makes SGD at
ordinary learning rates diverge.
"""

from dataclasses import dataclass
from typing import final

import torch.nn.functional as F
from torch import Tensor

from fd_flower.objectives.base import Objective, floored, matched, weighted_mean


@final
@dataclass(frozen=True)
class MSE(Objective):
    """Mean squared difference of centred logits (Ba and Caruana 2014, arXiv 1312.6184)."""

    def __call__(
        self,
        student_logits: Tensor,
        teacher_logprobs: Tensor,
        labels: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, a scalar: student and teacher [B, C], weight [B]; labels are not looked at."""
        student, teacher = _centred(student_logits, teacher_logprobs)
        return weighted_mean(F.mse_loss(student, teacher, reduction="none").mean(1), weight)


@final
@dataclass(frozen=True)
class MAE(Objective):
    """Mean absolute difference of centred logits, FedMD's digesting loss (Li and Wang 2019, arXiv 1910.03581)."""

    def __call__(
        self,
        student_logits: Tensor,
        teacher_logprobs: Tensor,
        labels: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, a scalar: student and teacher [B, C], weight [B]; labels are not looked at."""
        student, teacher = _centred(student_logits, teacher_logprobs)
        return weighted_mean(F.l1_loss(student, teacher, reduction="none").mean(1), weight)


def _centred(student_logits: Tensor, teacher_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sides [B, C] less the mean of each row, the teacher without -inf."""
    student, teacher = matched(student_logits, teacher_logprobs)
    teacher = floored(teacher)
    return student - student.mean(1, keepdim=True), teacher - teacher.mean(1, keepdim=True)
