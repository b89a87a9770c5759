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
    directions : Tensor
        [n] int32: their numbers, 0 or more, in the order of the steps; one may come again.
    values : Tensor
        [n] float32: the learning rate times the slope of the loss; a step goes this far back.
    """

    kind: ClassVar[str] = "seed-scalars"
    directions: Tensor
    values: Tensor

    def check(self, bounds: Bounds) -> None:
        """Refuse what is not finite, directions that nobody knows, and another number of scalars than of directions."""
        super().check(bounds)
        self._shape("directions", self.directions, None)
        self._integers("directions", self.directions, bounds.directions, torch.int32)
        self._shape("values", self.values, len(self.directions))
        self._floats("values", self.values)

    def total(self, candidates: int) -> Tensor:
        """Return the sum of all steps along each of so many directions, float64 [candidates]."""
        zeros = torch.zeros(candidates, dtype=torch.float64)
        return zeros.index_add(0, self.directions.long(), self.values.double())
