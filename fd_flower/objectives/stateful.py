"""A loss that changes while it teaches: its state is a tensor, and each step of it a pure function."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

from torch import Tensor

from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.objectives.base import Objective

Loss = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
"""``(student_logits, teacher_logprobs, labels, weight)`` -> scalar, as ``Objective`` has it."""

CLOCKS = ("round", "step")

P = TypeVar("P")
"""A stateful loss's parameter: a number, or a leaf tensor that training leaves a gradient in."""


class Stateful(Objective, Generic[P]):
    """A loss with a state, which the training loop keeps; its class says which loss it is when called alone."""

    clock: str
    """Whether it moves on once a ``round`` or at every ``step`` of training."""

    @abstractmethod
    def at(self, state: Tensor | None, progress: float) -> tuple[Loss, P]:
        """Return the current loss, and its parameter.

        Parameters
        ----------
        state : Tensor | None
            As ``after`` returned it; None before the first step.
        progress : float
            The share of the run that is over, 0 to 1.
        """

    @abstractmethod
    def after(self, state: Tensor | None, parameter: P, value: float) -> Tensor | None:
        """Return the state after a step at which the loss, with this parameter, came out as ``value``."""


def check_clock(loss: str, clock: str) -> None:
    """Refuse a clock that there is not."""
    if clock not in CLOCKS:
        raise InvalidInputError(f"the clock of {loss} is '{clock}'{nearest(clock, CLOCKS)}")
