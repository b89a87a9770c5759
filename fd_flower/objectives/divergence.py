"""Losses that compare the student's probabilities with the teacher's."""

import math
from dataclasses import dataclass
from typing import final

import torch.nn.functional as F
from torch import Tensor

from fd_flower.errors import WrongInput
from fd_flower.objectives.base import Objective, matched, weighted_mean


@final
@dataclass(frozen=True)
class KL(Objective):
    """Forward Kullback-Leibler divergence of softened predictions (Hinton et al. 2015, arXiv 1503.02531).

    ``T^2 * KL(softmax(t / T) || softmax(s / T))`` in nats: summed over classes, averaged over the batch. ``T^2``
    keeps the size of the gradients where the temperature changes.
    """

    temperature: float = 1.0
    """T; above 1 softens both predictions."""

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 < self.temperature < math.inf:
            raise WrongInput(f"the temperature of kl is {self.temperature}; expected a number above 0")

    def __call__(
        self,
        student_logits: Tensor,
        teacher_logprobs: Tensor,
        labels: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, a scalar: student and teacher [B, C], weight [B]; labels are not looked at."""
        student, teacher = matched(student_logits, teacher_logprobs)
        # The teacher enters as probabilities: `kl_div` counts 0 log 0 as 0, its `log_target` gives NaN for it.
        p = F.softmax(teacher / self.temperature, dim=1)
        log_q = F.log_softmax(student / self.temperature, dim=1)
        return weighted_mean(F.kl_div(log_q, p, reduction="none").sum(1), weight) * self.temperature**2
