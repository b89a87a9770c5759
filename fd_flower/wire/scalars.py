"""Steps along random directions that both sides know by their numbers."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fd_flower.wire.payload import Bounds, Payload


@dataclass(frozen=True, eq=False)
class SeedScalars(Payload):
    """How far a model has gone along each of some directions.

    Attributes
    ----------
    values : Tensor
        [n] float32: the learning rate times the slope of the loss; a step goes this far back.
    numbers : Tensor | None
        [n] int32: the directions' numbers, 0 or more, in the order of the steps; one may come again. None: all
        directions, in their order.
    """

    kind: ClassVar[str] = "seed-scalars"
    values: Tensor
    numbers: Tensor | None = None

    @property
    def directions(self) -> Tensor:
        """The directions' numbers [n], int32."""
        return torch.arange(len(self.values), dtype=torch.int32) if self.numbers is None else self.numbers

    def check(self, bounds: Bounds) -> None:
        """Refuse what is not finite, unknown directions, and another number of scalars than of directions."""
        super().check(bounds)
        self._shape("values", self.values, None)
        self._floats("values", self.values)
        self._shape("numbers", self.directions, len(self.values))
        self._integers("numbers", self.directions, bounds.directions, torch.int32)

    def total(self, candidates: int) -> Tensor:
        """Return the sum of all steps along each of so many directions, float64 [candidates]."""
        zeros = torch.zeros(candidates, dtype=torch.float64)
        return zeros.index_add(0, self.directions.long(), self.values.double())
