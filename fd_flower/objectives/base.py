"""What a distillation loss is, and the steps that losses share."""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError

FLOOR = math.log(torch.finfo(torch.float32).smallest_normal * torch.finfo(torch.float32).eps)
"""Log of the smallest float32 above 0 (-103.3)."""


def floored(logprobs: Tensor) -> Tensor:
    """Return log-probabilities or logits [..., C] less the greatest of each row, with a number in place of -inf.

    Where logs are averaged, a ruled-out class (-inf) must be some number: it counts as the least likely that
    float32 can tell from impossible, against the likeliest class (``FLOOR``), or as the row's least likely class where
    that is even less likely. What is finite stays unchanged.
    """
    apart = logprobs - logprobs.amax(-1, keepdim=True)
    ruled_out = apart == -math.inf
    least = apart.masked_fill(ruled_out, FLOOR).amin(-1, keepdim=True).clamp(max=FLOOR)
    return torch.where(ruled_out, least, apart)


class DistillationLoss(ABC):
    """A loss by name, on predictions of classes or of texts' tokens; its arguments are dataclass fields."""

    on: ClassVar[str]
    """What it compares: ``classes`` or ``tokens``."""

    @abstractmethod
    def __call__(self, *args: Any, **more: Any) -> Tensor:
        """Return the loss, a scalar, between a student's and a teacher's predictions."""

    @property
    def exits(self) -> tuple[int, ...]:
        """Stages of the student, counted from 1, whose exits learn by this loss next to its last layer."""
        return ()


class Objective(DistillationLoss):
    """A loss between a student's logits and a teacher's log-probabilities; its arguments are dataclass fields."""

    on = "classes"

    @abstractmethod
    def __call__(
        self,
        student_logits: Tensor,
        teacher_logprobs: Tensor,
        labels: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, a scalar.

        Parameters
        ----------
        student_logits : Tensor
            [B, C]; the gradient flows into these alone.
        teacher_logprobs : Tensor
            [B, C], at temperature 1. Logits give the same loss: no loss sees a constant added to a row.
            -inf is a class that the teacher rules out; a row of -inf alone is no prediction.
        labels : Tensor | None
            True classes [B], int64. A loss that needs one for each sample takes the teacher's likeliest class, the
            first of equals, where there are none; the others do not look at them.
        weight : Tensor | None
            How much each sample counts [B], not negative, divided by its sum; if all are 0 the loss is exactly 0.

        Raises
        ------
        InvalidInputError
            If the shapes do not fit together.
        """


class Samplewise(Objective):
    """A loss that is a mean over samples."""

    @abstractmethod
    def rows(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """Return each sample's loss [B] between logits and log-probabilities [B, C] of one dtype."""

    def __call__(
        self,
        student_logits: Tensor,
        teacher_logprobs: Tensor,
        labels: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, a scalar: student and teacher [B, C], labels and weight [B]."""
        student, teacher = matched(student_logits, teacher_logprobs)
        return weighted_mean(self.rows(student, teacher, labels), weight)


def above_zero(loss: str, argument: str, value: float) -> None:
    """Refuse an argument of a loss that is no number above 0."""
    if not 0 < value < math.inf:
        raise InvalidInputError(f"the {argument} of {loss} is {value}; expected a number above 0")


def within(loss: str, argument: str, value: float, least: float, most: float = math.inf) -> None:
    """Refuse an argument of a loss that is no number from ``least`` to ``most``."""
    if not (least <= value <= most and value < math.inf):
        sent = f"{least:g} or more" if most == math.inf else f"a number from {least:g} to {most:g}"
        raise InvalidInputError(f"the {argument} of {loss} is {value}; expected {sent}")


def likeliest(teacher: Tensor, labels: Tensor | None) -> Tensor:
    """Return each sample's class [B]: its label, or the teacher's likeliest class [B, C] where there are no labels.

    Raises
    ------
    InvalidInputError
        If the labels are not [B].
    """
    if labels is None:
        return teacher.argmax(1)
    if labels.shape != teacher.shape[:1]:
        raise InvalidInputError(f"the labels have shape {list(labels.shape)}; expected one a sample, [{len(teacher)}]")
    return labels


def matched(student_logits: Tensor, teacher_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sides [B, C] in one dtype, at least float32, the teacher without a gradient.

    Raises
    ------
    InvalidInputError
        If they are not both [B, C].
    """
    if student_logits.dim() != 2 or student_logits.shape != teacher_logprobs.shape:
        raise InvalidInputError(
            f"the student's logits have shape {list(student_logits.shape)}, the teacher's log-probabilities"
            f" {list(teacher_logprobs.shape)}; expected the same [samples, classes] of both"
        )
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    return student_logits.to(dtype), teacher_logprobs.detach().to(dtype)


def weighted_mean(losses: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean of ``losses`` [B], each sample counting by its ``weight`` [B]; 0 where nothing counts.

    Raises
    ------
    InvalidInputError
        If the weights are not [B].
    """
    return losses.mean() if weight is None else (losses * shares(weight, losses)).sum()


def shares(weight: Tensor, losses: Tensor) -> Tensor:
    """Return weights [B] divided by their sum, in the dtype of ``losses`` [B]; all 0 where the sum is.

    Raises
    ------
    InvalidInputError
        If the weights are not [B].
    """
    if weight.shape != losses.shape:
        raise InvalidInputError(
            f"the weights have shape {list(weight.shape)}; expected one a sample, {list(losses.shape)}"
        )
    weight = weight.to(losses.dtype)
    total = weight.sum()
    # The denominator is replaced, not the quotient: 0/0 would still send NaN backwards through a `where`.
    return weight / torch.where(total == 0, torch.ones_like(total), total)
