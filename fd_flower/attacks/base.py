"""What an attack is, what it is given, and the steps that attacks share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

PREDICTIONS, CLASSES, WEIGHTS = "predictions on public samples", "one row a class", "weights"
"""What an attack on replies rewrites, each as rows of numbers (``Seen``)."""

VOTES = "votes for public samples"
"""What an attack on votes rewrites: a function from a mask of claimed samples, bool [N], to another."""

DATA = "training labels"
"""What an attack on data rewrites: a function from the number of classes C to each class's new number, int64 [C]."""

IMAGES = "training images"
"""What a back door adds to: a function from the number of classes to a trigger for images."""

ROWS = (PREDICTIONS, CLASSES, WEIGHTS)

KNOWLEDGE = ("own", "teacher", "omniscient")
"""What attackers know, from the least: their own honest reply; what the server sent; the honest clients' replies."""


@dataclass(frozen=True)
class Seen:
    """What one attacker knows in a round: its honest reply as rows of numbers, and more by ``attack.knowledge``.

    Rows are public samples with the log-probabilities of C classes, classes with their prototype or mean logits, or
    one row of all weights.

    Attributes
    ----------
    own : Tensor
        What the attacker would have sent, float64 [R, D].
    start : Tensor
        What contains no information, float64 [R, D]: zeros, which are uniform predictions; the weights that the client
        received.
    teacher : Tensor
        What the server sent about the same rows, float64 [R, D].
    taught : Tensor
        Which rows the server sent anything about, bool [R]; none with ``attack.knowledge=own``.
    others : Tensor
        The honest clients' replies of the round about the same rows, float64 [U, R, D]; U is 0 unless attackers are
        omniscient.
    held : Tensor
        Which rows they are about, bool [U, R].
    attackers : int
        How many attackers reply in the round.
    honest : int
        How many honest clients do.
    rng : torch.Generator
        The attacker's own random numbers of the round.
    """

    own: Tensor
    start: Tensor
    teacher: Tensor
    taught: Tensor
    others: Tensor
    held: Tensor
    attackers: int
    honest: int
    rng: torch.Generator

    @property
    def share(self) -> float:
        """The attackers' share of the round's replies."""
        return self.attackers / (self.attackers + self.honest)

    def expected(self, of: Callable[[Tensor], Tensor] = lambda values: values) -> Tensor:
        """Return the mean of the honest replies [R, D], each counted the same, after ``of`` them.

        Rows without an honest reply are those of the teacher, or the attacker's own where there is none.
        """
        count = self.held.sum(0).unsqueeze(1)
        total = (of(self.others) * self.held.unsqueeze(2)).sum(0)
        known = torch.where(self.taught.unsqueeze(1), of(self.teacher), of(self.own))
        return torch.where(count > 0, total / count.clamp(min=1), known)

    def picked(self, scores: Tensor) -> Tensor:
        """Return of each row the honest reply [R, D] with the highest of ``scores`` [U, R]; its own where is none."""
        if not len(self.others):
            return self.own
        best = scores.masked_fill(~self.held, -torch.inf).argmax(0)
        chosen = self.others[best, torch.arange(len(best))]
        return torch.where(self.held.any(0).unsqueeze(1), chosen, self.own)


@dataclass(frozen=True)
class Mark:
    """What an attack declares.

    Attributes
    ----------
    targets : tuple[str, ...]
        What it can rewrite.
    least : str
        Of ``KNOWLEDGE``, what attackers must know at least.
    """

    targets: tuple[str, ...]
    least: str = "own"


F = TypeVar("F", bound=Callable[..., Any])
_MARKS: dict[Callable[..., Any], Mark] = {}


def attack(*targets: str, least: str = "own") -> Callable[[F], F]:
    """Mark an attack that ``attack.name`` can name; its arguments after the first are ``attack.args``."""

    def marked(function: F) -> F:
        _MARKS[function] = Mark(targets, least)
        return function

    return marked


def is_attack(value: object) -> bool:
    """Whether a function is marked by ``@attack``."""
    return callable(value) and any(value is function for function in _MARKS)


def mark_of(function: Callable[..., Any]) -> Mark:
    """Return what a marked function declares."""
    return _MARKS[function]
