"""Losses that compare the student's probabilities q with the teacher's p, in nats: summed over classes."""

import math
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.objectives.base import Samplewise, above_zero, floored


def forward(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(p || q) of each sample [B], both softened."""
    # The teacher enters as probabilities: `kl_div` counts 0 log 0 as 0, its `log_target` gives NaN for it.
    if temperature != 1:  # each operation of these small tensors costs a step of a small network some of its time
        student, teacher = student / temperature, teacher / temperature
    return F.kl_div(F.log_softmax(student, dim=1), F.softmax(teacher, dim=1), reduction="none").sum(1)


def reverse(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(q || p) of each sample [B], both softened; what p rules out counts as ``floored`` has it."""
    # Floored after it is softened: what is ruled out is ruled out at every temperature.
    log_p = F.log_softmax(floored(teacher / temperature), dim=1)
    log_q = F.log_softmax(student / temperature, dim=1)
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)


def _mixture(student: Tensor, teacher: Tensor, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return p, log q and the log of ``share * p + (1 - share) * q``, which is finite wherever log q is, all [B, C]."""
    log_p, log_q = F.log_softmax(teacher, dim=1), F.log_softmax(student, dim=1)
    return log_p.exp(), log_q, torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))


def _share(loss: str, argument: str, value: float) -> None:
    """Refuse a share of a mixture that leaves one side out."""
    if not 0 < value < 1:
        raise InvalidInputError(f"the {argument} of {loss} is {value}; expected a share above 0 and below 1")


@final
@dataclass(frozen=True)
class KL(Samplewise):
    """Forward Kullback-Leibler divergence of softened predictions (Hinton et al. 2015, arXiv 1503.02531).

    ``T^2 * KL(softmax(t / T) || softmax(s / T))``. ``T^2`` keeps the size of the gradients where the temperature
    changes.
    """

    temperature: float = 1.0
    """T; above 1 softens both predictions."""

    def __post_init__(self) -> None:
        """Check the range."""
        above_zero("kl", "temperature", self.temperature)

    def rows(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """Return ``T^2 KL(p || q)`` [B]."""
        rows = forward(student, teacher, self.temperature)
        return rows if self.temperature == 1 else rows * self.temperature**2


@final
@dataclass(frozen=True)
class ReverseKL(Samplewise):
    """Reverse Kullback-Leibler divergence, which seeks one of the teacher's modes: ``T^2 * KL(q || p)``."""

    temperature: float = 1.0
    """T; above 1 softens both predictions."""

    def __post_init__(self) -> None:
        """Check the range."""
        above_zero("reversekl", "temperature", self.temperature)

    def rows(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """Return ``T^2 KL(q || p)`` [B]."""
        return reverse(student, teacher, self.temperature) * self.temperature**2


@final
@dataclass(frozen=True)
class Jeffreys(Samplewise):
    """Both Kullback-Leibler divergences (Jeffreys 1946): ``T^2 * (KL(p || q) + KL(q || p))``, the sum, not the mean."""

    temperature: float = 1.0
    """T; above 1 softens both predictions."""

    def __post_init__(self) -> None:
        """Check the range."""
        above_zero("jeffreys", "temperature", self.temperature)

    def rows(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """Return ``T^2 (KL(p || q) + KL(q || p))`` [B]."""
        both = forward(student, teacher, self.temperature) + reverse(student, teacher, self.temperature)
        return both * self.temperature**2


@final
@dataclass(frozen=True)
class JS(Samplewise):
    """Generalized Jensen-Shannon divergence ``b KL(p || m) + (1 - b) KL(q || m)``, ``m = b p + (1 - b) q``.

    It is not divided by ``b (1 - b)``: near 0 it is ``b KL(p || q)``, near 1 ``(1 - b) KL(q || p)``.
    """

    beta: float = 0.1
    """b, the teacher's share in the mixture."""

    def __post_init__(self) -> None:
        """Check the range."""
        _share("js", "beta", self.beta)

    def rows(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """Return the divergence [B]; at beta 0.5 at most log 2."""
        p, log_q, log_m = _mixture(student, teacher, self.beta)
        of_teacher = F.kl_div(log_m, p, reduction="none")
        of_student = F.kl_div(log_m, log_q, reduction="none", log_target=True)
        return (self.beta * of_teacher + (1 - self.beta) * of_student).sum(1)


@final
@dataclass(frozen=True)
class SkewKL(Samplewise):
    """Skew forward Kullback-Leibler divergence ``KL(p || a p + (1 - a) q)``, at most ``-log a``."""

    alpha: float = 0.1
    """a, the teacher's share in the mixture that it is compared with."""

    def __post_init__(self) -> None:
        """Check the range."""
        _share("skewkl", "alpha", self.alpha)

    def rows(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """Return the divergence [B]."""
        p, _, log_m = _mixture(student, teacher, self.alpha)
        return F.kl_div(log_m, p, reduction="none").sum(1)


@final
@dataclass(frozen=True)
class TVD(Samplewise):
    """Total variation distance ``1/2 * sum |p - q|``, 0 to 1."""

    def rows(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """Return the distance [B]."""
        return (F.softmax(teacher, dim=1) - F.softmax(student, dim=1)).abs().sum(1) / 2
