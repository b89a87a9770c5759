"""Forward and reverse divergence, balanced sample by sample (Amara et al. 2022, arXiv 2212.12965)."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.objectives.base import Samplewise, above_zero, within
from fd_flower.objectives.divergence import forward, reverse

MODES = ("hard", "soft")


@final
@dataclass(frozen=True)
class BDKD(Samplewise):
    """``T^2 * (a KL(p || q) + b KL(q || p))``, a and b by the gap of entropies ``g = H(p) - H(q)`` (BD-KD).

    That the two divergences are weighed by the sample's entropies is the paper's; how, is a reconstruction:
    ``hard`` takes a = nu, b = 1 where the student is more confident (g > 0) and a = 1, b = nu elsewhere; ``soft``
    takes a = 2 sigmoid(kappa g), b = 2 - a. The weights are numbers: no gradient flows through them.
    """

    mode: str = "hard"
    """How a and b come from the gap: `hard` or `soft`."""
    nu: float = 2.0
    """Weight of the favored divergence under `hard`."""
    kappa: float = 1.0
    """Steepness under `soft`; 0 is the sum of both divergences."""
    temperature: float = 4.0
    """T, of both predictions and of their entropies."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.mode not in MODES:
            raise InvalidInputError(f"the mode of bdkd is '{self.mode}'{nearest(self.mode, MODES)}")
        for argument, value in (("nu", self.nu), ("kappa", self.kappa)):
            within("bdkd", argument, value, 0)
        above_zero("bdkd", "temperature", self.temperature)

    def rows(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """Return the balanced divergences [B]."""
        t = self.temperature
        gap = _entropy(teacher / t) - _entropy(student.detach() / t)
        if self.mode == "hard":
            surer = gap > 0
            a, b = torch.where(surer, self.nu, 1.0), torch.where(surer, 1.0, self.nu)
        else:
            a, b = 2 * torch.sigmoid(self.kappa * gap), 2 * torch.sigmoid(-self.kappa * gap)
        return t**2 * (a * forward(student, teacher, t) + b * reverse(student, teacher, t))


def _entropy(logits: Tensor) -> Tensor:
    """Return the entropy of each row [B], in nats."""
    return torch.special.entr(logits.softmax(1)).sum(1)
