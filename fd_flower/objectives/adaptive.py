"""Forward and reverse divergence, weighed by where the student is off (Wu et al. 2024, arXiv 2404.02657)."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.objectives.base import Samplewise
from fd_flower.objectives.divergence import forward, reverse


@final
@dataclass(frozen=True)
class AKL(Samplewise):
    """``a KL(p || q) + (1 - a) KL(q || p)``, a the share of the gap that is at the teacher's likely classes (AKL).

    The gap of a class is ``|p - q|``. With classes from the least likely to the likeliest, those at which the sum of p
    has come to ``head`` are the head. The formula is that of TAID's repository, whose code takes the head's places in
    sorted order for classes, and is NaN where p = q; there both divergences count half here. The weights are numbers:
    no gradient flows through them.
    """

    head: float = 0.5
    """Probability that has been counted, from below, where the head begins."""

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 < self.head < 1:
            raise InvalidInputError(f"the head of akl is {self.head}; expected a share above 0 and below 1")

    def rows(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """Return the weighed divergences [B]."""
        p, q = teacher.softmax(1), student.detach().softmax(1)
        share = _share(p, (p - q).abs(), self.head)
        return share * forward(student, teacher) + (1 - share) * reverse(student, teacher)


def _share(p: Tensor, gap: Tensor, head: float) -> Tensor:
    """Return how much of the gaps [B, C] is at the likely classes of p [B, C]: [B], a half where there is no gap."""
    order = p.argsort(dim=1, stable=True)
    likely = p.gather(1, order).cumsum(1) >= head
    likely[:, -1] = True  # whatever rounding makes of the sum
    inside = (gap.gather(1, order) * likely).sum(1)
    total = gap.sum(1)
    return torch.where(total > 0, inside / total.clamp_min(torch.finfo(total.dtype).tiny), 0.5)
