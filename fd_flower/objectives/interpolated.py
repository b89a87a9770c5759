"""A teacher that begins near the student and ends as itself (Shing et al. 2025, arXiv 2501.16937)."""

import math
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, final

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.objectives.base import Objective, likeliest, matched, within
from fd_flower.objectives.names import made
from fd_flower.objectives.stateful import Loss, Stateful, check_clock


@final
@dataclass(frozen=True)
class TAID(Stateful[float]):
    """Temporally adaptive interpolated distillation: an inner loss against ``softmax((1 - t) s + t teacher)``.

    No gradient flows into the student's share of the target. t follows a line from ``start`` to ``end`` over the run
    and may run ahead of it: after a step ``m <- beta m + (1 - beta) (L_before - L) / L_before``, and
    ``t <- t + alpha sigmoid(m) (1 - t)``, never below the line nor above ``end``. The first step only notes L. Where
    the inner loss needs a label and there is none, it is the *teacher's* likeliest class: the mixture's would mostly
    be the student's own.
    """

    inner: str = "kl"
    """The loss against the mixture, by name."""
    inner_args: dict[str, Any] = field(default_factory=dict)
    """Its arguments."""
    start: float = 0.4
    """t at the beginning of the run."""
    end: float = 1.0
    """t at its end; 1 is the inner loss itself."""
    alpha: float = 0.1
    """How far t may run ahead in a step; 0: never, t is the line. With `clock=step` the authors' is 0.0005."""
    beta: float = 0.99
    """Momentum of the relative change of the loss."""
    clock: str = "round"
    """What a step is: a `round`, or a mini-batch (`step`)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if isinstance(self._inner, Stateful):
            raise InvalidInputError(
                f"the inner loss of taid is '{self.inner}'; expected one that does not change on its own"
            )
        within("taid", "start", self.start, 0, 1)
        within("taid", "end", self.end, self.start, 1)
        within("taid", "alpha", self.alpha, 0)
        within("taid", "beta", self.beta, 0, 1)
        check_clock("taid", self.clock)

    @cached_property
    def _inner(self) -> Objective:
        return made(self.inner, self.inner_args, "client.objective_args.inner_args")

    @property
    def exits(self) -> tuple[int, ...]:
        """Stages of the student whose exits the inner loss teaches."""
        return self._inner.exits

    def at(self, state: Tensor | None, progress: float) -> tuple[Loss, float]:
        """Return the inner loss against the mixture, and t."""
        line = self.start + (self.end - self.start) * progress
        t = min(self.end, line if state is None else max(line, float(state[0])))
        return partial(self.mixed, t), t

    def after(self, state: Tensor | None, parameter: float, value: float) -> Tensor | None:
        """Return ``[t, m, L]``, float64; a value of 0, where no sample counted, or that is no number moves nothing."""
        if not 0 < value < math.inf:
            return state
        t, momentum = parameter, 0.0
        if state is not None:
            _, momentum, before = state.tolist()
            momentum = self.beta * momentum + (1 - self.beta) * (before - value) / before
            t = min(self.end, t + self.alpha * (1 - t) * (1 + math.tanh(momentum / 2)) / 2)  # the sigmoid, no overflow
        return torch.tensor([t, momentum, value], dtype=torch.float64)

    def mixed(
        self,
        t: float,
        student_logits: Tensor,
        teacher_logprobs: Tensor,
        labels: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the inner loss against the mixture at t, a scalar: all as ``Objective`` has it.

        A class that the teacher rules out is ruled out by every mixture with t above 0.
        """
        student, teacher = matched(student_logits, teacher_logprobs)
        own = student.detach()
        mixture = (1 - t) * own + t * teacher if t else own  # 0 * -inf would be NaN
        return self._inner(student_logits, mixture, likeliest(teacher, labels), weight)

    def __call__(
        self,
        student_logits: Tensor,
        teacher_logprobs: Tensor,
        labels: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss at the end of a run, a scalar, with the arguments of ``Objective``."""
        return self.mixed(self.end, student_logits, teacher_logprobs, labels, weight)
