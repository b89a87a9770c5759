"""A loss with a state during one client's turn: what it is now, and what is to be remembered of it."""

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from fd_flower.objectives import Objective, Stateful


@final
class Scheduled(Objective):
    """A stateful loss that a turn moves on: once a round or after every mini-batch, by the loss's clock.

    However often it is called in between, it is the same loss, and moves on by the mean of what it came out as.

    Parameters
    ----------
    loss : Stateful[Any]
        The loss that ``client.objective`` names.
    state : Tensor | None
        Its state, as the client remembers it.
    done : int
        Rounds that are over.
    rounds : int
        Rounds in all.
    """

    def __init__(self, loss: Stateful[Any], state: Tensor | None, done: int, rounds: int) -> None:
        self.state = state
        self._loss = loss
        self._done = done
        self._rounds = rounds
        self._values: list[Tensor] = []
        self._set(0.0)

    @property
    def exits(self) -> tuple[int, ...]:
        """Stages of the student whose exits learn as well."""
        return self._loss.exits

    def __call__(
        self,
        student_logits: Tensor,
        teacher_logprobs: Tensor,
        labels: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the current loss, a scalar, with the arguments of ``Objective``."""
        value = self._now(student_logits, teacher_logprobs, labels, weight)
        self._values.append(value.detach())
        return value

    def over(self, steps: int) -> Callable[[int], bool]:
        """Return what is to be called after each of so many mini-batches with the number that are done."""

        def stepped(done: int) -> bool:
            if self._loss.clock == "step":
                self.move()
                self._set(done / steps)
            return False  # it never ends the training

        return stepped

    def move(self) -> None:
        """Take a step with the mean of what the loss came out as since the last one; none if it was not called."""
        if self._values:
            self.state = self._loss.after(self.state, self.parameter, float(torch.stack(self._values).mean()))
            self._values.clear()

    def _set(self, share: float) -> None:
        """Become the loss of the point at which this share of the round's training is over."""
        self._now, self.parameter = self._loss.at(self.state, min(1.0, (self._done + share) / self._rounds))
