"""How much each number of an input says about the class, as clients send it and a server keeps it."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.payload import Bounds, Payload


@dataclass(frozen=True, eq=False)
class Importances(Payload):
    """The importance of each number of an input on one client's samples.

    Attributes
    ----------
    values : Tensor
        [D], float32 in [0, 1].
    client : str
        Whose they are, where a server keeps them; "" in a client's reply.
    """

    kind: ClassVar[str] = "importances"
    named_by: ClassVar[str] = "client"
    values: Tensor
    client: str = ""

    def check(self, bounds: Bounds) -> None:
        """Refuse what is no share, and another number of them than the client's inputs have numbers."""
        super().check(bounds)
        said = bounds.client.shape if bounds.client else ()
        self._shape("values", self.values, math.prod(said) if said else None)
        self._floats("values", self.values)
        if self.values.numel() and not 0 <= float(self.values.min()) <= float(self.values.max()) <= 1:
            low, high = float(self.values.min()), float(self.values.max())
            raise InvalidInputError(f"{self.name} has numbers from {low:g} to {high:g}; expected 0 to 1")
