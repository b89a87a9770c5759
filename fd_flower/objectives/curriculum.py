"""A divergence with a temperature that is learned against the student (Li et al. 2023, arXiv 2211.16231)."""

import math
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.objectives.base import above_zero, matched, weighted_mean, within
from fd_flower.objectives.stateful import Loss, Stateful


@final
@dataclass(frozen=True)
class CTKD(Stateful[Tensor]):
    """``T^2 * KL(softmax(t / T) || softmax(s / T))`` with one learned temperature ``T = lowest + span sigmoid(theta)``.

    Curriculum temperature distillation (CTKD). The student descends the loss and theta ascends it: its gradient is
    reversed and multiplied by a strength that rises from 0 along a cosine. After each mini-batch
    ``v <- momentum v - strength * slope`` and ``theta <- theta - lr v``. The slope is that of whatever the method
    minimizes, its weights included. Called on its own, the temperature is the one that it starts with.

    This is the global temperature of the official code (zhengli97/CTKD at 7d52522: ``temp_global.py``, ``loops.py``),
    where the student's optimizer steps theta, too, with its weight decay; here there is none. A temperature for each
    sample, which the authors offer as well, is not built.
    """

    start: float = 15.62
    """T at the beginning; the official code's is 1 + 20 sigmoid(1)."""
    lowest: float = 1.0
    """T is always above it."""
    span: float = 20.0
    """T is always below ``lowest + span``."""
    lr: float = 0.05
    """Learning rate of theta."""
    momentum: float = 0.9
    """Momentum of theta's steps."""
    strength: float = 1.0
    """What theta's gradient is multiplied by, at most; 0: T is never learned."""
    ramp: float = 0.1
    """Share of the run over which the strength rises; 0: it is there from the beginning. The authors' is 10 epochs."""

    clock = "step"

    def __post_init__(self) -> None:
        """Check the ranges."""
        within("ctkd", "lowest", self.lowest, 0)
        above_zero("ctkd", "span", self.span)
        above_zero("ctkd", "lr", self.lr)
        within("ctkd", "momentum", self.momentum, 0, 1)
        within("ctkd", "strength", self.strength, 0)
        within("ctkd", "ramp", self.ramp, 0, 1)
        if not self.lowest < self.start < self.lowest + self.span:
            ends = f"above {self.lowest:g} and below {self.lowest + self.span:g}"
            raise InvalidInputError(f"the start of ctkd is {self.start}; expected a temperature {ends}")

    def at(self, state: Tensor | None, progress: float) -> tuple[Loss, Tensor]:
        """Return the loss at this temperature, and theta, a leaf whose gradient comes out reversed."""
        theta = self._first() if state is None else state[0].clone()
        reversal = -self.strength * _risen(progress, self.ramp)
        theta.requires_grad_().register_hook(lambda slope: reversal * slope)
        return partial(self.softened, theta), theta

    def after(self, state: Tensor | None, parameter: Tensor, value: float) -> Tensor | None:
        """Return ``[theta, v]``, float64; a step without a gradient, or whose gradient is no number, moves nothing."""
        slope = parameter.grad
        if slope is None or not bool(slope.isfinite()):
            return state
        before = torch.zeros_like(slope) if state is None else state[1]
        velocity = self.momentum * before + slope
        return torch.stack([parameter.detach() - self.lr * velocity, velocity])

    def temperature(self, theta: Tensor) -> Tensor:
        """Return T of theta, a scalar."""
        return self.lowest + self.span * theta.sigmoid()

    def softened(
        self,
        theta: Tensor,
        student_logits: Tensor,
        teacher_logprobs: Tensor,
        labels: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss at theta's temperature, a scalar: all as ``Objective`` has it; slopes reach theta, too."""
        student, teacher = matched(student_logits, teacher_logprobs)
        return weighted_mean(_divergence(student, teacher, self.temperature(theta).to(student)), weight)

    def __call__(
        self,
        student_logits: Tensor,
        teacher_logprobs: Tensor,
        labels: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss at the temperature that it starts with, a scalar: all as ``Objective`` has it."""
        return self.softened(self._first(), student_logits, teacher_logprobs, labels, weight)

    def _first(self) -> Tensor:
        return torch.tensor((self.start - self.lowest) / self.span, dtype=torch.float64).logit()


def _risen(progress: float, ramp: float) -> float:
    """Return how much of the strength there is: half a cosine wave from 0 to 1 over the ramp, then 1."""
    return (1 - math.cos(math.pi * progress / ramp)) / 2 if progress < ramp else 1.0


def _divergence(student: Tensor, teacher: Tensor, t: Tensor) -> Tensor:
    """Return T^2 KL(p || q) of each sample [B]; of ruled-out classes nothing reaches the temperature, not even NaN."""
    ruled_out = teacher == -math.inf
    log_p = F.log_softmax((teacher.masked_fill(ruled_out, 0.0) / t).masked_fill(ruled_out, -math.inf), dim=1)
    log_q = F.log_softmax(student / t, dim=1)
    return t.square() * (log_p.exp() * (log_p.masked_fill(ruled_out, 0.0) - log_q)).sum(1)
