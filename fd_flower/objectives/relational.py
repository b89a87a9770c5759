"""How predictions go together, over classes and over samples (Huang et al. 2022, arXiv 2205.10536)."""

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from fd_flower.objectives.base import Objective, above_zero, matched, shares, weighted_mean, within

LEAST = 1e-8
"""Added to the product of the norms: a constant row or column correlates with nothing."""


@final
@dataclass(frozen=True)
class DIST(Objective):
    """``T^2 * (beta (1 - r_inter) + gamma (1 - r_intra))`` with Pearson's r of softened probabilities.

    ``r_inter`` is the mean over samples of the correlation of its classes, ``r_intra`` the mean over classes of the
    correlation over the batch. A sample's weight counts in the first mean, and in the second as often as it says:
    columns are centered and summed with it. The batch is part of the loss: over one sample ``r_intra`` is 0.
    """

    beta: float = 1.0
    """Weight of the term over classes."""
    gamma: float = 1.0
    """Weight of the term over samples."""
    temperature: float = 1.0
    """T, of both predictions."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for argument, value in (("beta", self.beta), ("gamma", self.gamma)):
            within("dist", argument, value, 0)
        above_zero("dist", "temperature", self.temperature)

    def __call__(
        self,
        student_logits: Tensor,
        teacher_logprobs: Tensor,
        labels: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, a scalar: student and teacher [B, C], weight [B]; labels are not looked at."""
        student, teacher = matched(student_logits, teacher_logprobs)
        q, p = F.softmax(student / self.temperature, dim=1), F.softmax(teacher / self.temperature, dim=1)
        classes = torch.full_like(q[:1], 1 / q.shape[1])
        inter = 1 - _correlation(q, p, classes, 1)
        samples = shares(torch.ones_like(inter) if weight is None else weight, inter).unsqueeze(1)
        intra = (1 - _correlation(q, p, samples, 0)) * samples.any()  # 0 where nothing counts
        return self.temperature**2 * (self.beta * weighted_mean(inter, weight) + self.gamma * intra.mean())


def _correlation(q: Tensor, p: Tensor, share: Tensor, dim: int) -> Tensor:
    """Return Pearson's correlation of q and p along a dimension, each entry counting by its share, which sum to 1."""
    root = (share * share.numel()).sqrt()  # 1 where all count the same
    x, y = (root * (side - (share * side).sum(dim, keepdim=True)) for side in (q, p))
    norms = torch.linalg.vector_norm(x, dim=dim) * torch.linalg.vector_norm(y, dim=dim)
    return (x * y).sum(dim) / (norms + LEAST)
