"""What a server keeps of earlier rounds' teachers to use it again."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fd_flower.wire.payload import Bounds, Payload


@dataclass(frozen=True, eq=False)
class CachedTeacher(Payload):
    """A teacher's predictions on public samples, and when they were made; it stays on the server.

    Attributes
    ----------
    index : Tensor
        [M] int64, rising: which public samples.
    values : Tensor
        [M, C] float32: log-probabilities.
    rounds : Tensor
        [M] int64: the round that made each.
    """

    kind: ClassVar[str] = "cached-teacher"
    index: Tensor
    values: Tensor
    rounds: Tensor

    def check(self, bounds: Bounds) -> None:
        """Refuse anything but one row and one round a sample."""
        count = len(self.index)
        self._shape("values", self.values, count, bounds.classes)
        for name, numbers in (("index", self.index), ("rounds", self.rounds)):
            self._shape(name, numbers, count)
            self._dtype(name, numbers, torch.int64)

    def about(self, index: Tensor) -> "CachedTeacher":
        """Return what it has about these samples, int64 [N]."""
        return self.where(torch.isin(self.index, index))

    def without(self, index: Tensor) -> "CachedTeacher":
        """Return what it has about other samples than these, int64 [N]."""
        return self.where(~torch.isin(self.index, index))

    def usable(self, round: int, rounds: int) -> "CachedTeacher":
        """Return what is at most so many rounds old in a round."""
        return self.where(round - self.rounds <= rounds)

    def where(self, rows: Tensor) -> "CachedTeacher":
        """Return the rows that a mask chooses, bool [M]."""
        return CachedTeacher(self.index[rows], self.values[rows], self.rounds[rows])

    def joined(self, other: "CachedTeacher") -> "CachedTeacher":
        """Return both, which are about different samples."""
        index, order = torch.cat([self.index, other.index]).sort()
        values, rounds = torch.cat([self.values, other.values]), torch.cat([self.rounds, other.rounds])
        return CachedTeacher(index, values[order], rounds[order])
