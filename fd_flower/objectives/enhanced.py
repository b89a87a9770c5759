"""Soft cross-entropy whose target class is raised, for students unlike their teacher (Hao et al. 2023)."""

from dataclasses import dataclass, field
from typing import final

import torch.nn.functional as F
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.objectives.base import Samplewise, above_zero, likeliest, within


@final
@dataclass(frozen=True)
class OFA(Samplewise):
    """One-for-all distillation (Hao et al. 2023, arXiv 2310.19444): ``-sum_c ((p_c + m_c)^eps - m_c) log q_c``.

    ``m`` is 1 for the label and 0 elsewhere; without labels the label is the teacher's likeliest class. At eps 1 it
    is the cross-entropy against p; above, the label counts more and the other classes less. No ``T^2``. With
    ``stages`` the same loss also teaches an exit after each of these stages, where the method can.
    """

    eps: float = 1.5
    """Exponent; the higher, the less the teacher is believed about other classes than the label."""
    temperature: float = 1.0
    """T, of both predictions."""
    stages: list[int] = field(default_factory=list)
    """Stages of the student that get an exit, counted from 1, rising; none: the loss on logits alone."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        within("ofa", "eps", self.eps, 1)
        above_zero("ofa", "temperature", self.temperature)
        if any(stage < 1 for stage in self.stages) or self.stages != sorted(set(self.stages)):
            raise InvalidInputError(f"the stages of ofa are {self.stages}; expected rising numbers from 1, like [1,2]")

    @property
    def exits(self) -> tuple[int, ...]:
        """Stages of the student whose exits learn as well."""
        return tuple(self.stages)

    def rows(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """Return the cross-entropy against the enhanced target [B]."""
        p = F.softmax(teacher / self.temperature, dim=1)
        label = F.one_hot(likeliest(teacher, labels), p.shape[1]).to(p.dtype)
        target = (p + label) ** self.eps - label
        return -(target * F.log_softmax(student / self.temperature, dim=1)).sum(1)
