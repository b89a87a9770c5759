"""How much each parameter of a model may learn, as a server finds it and clients receive it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.payload import Bounds, Payload


@dataclass(frozen=True, eq=False)
class Guidance(Payload):
    """Factors of a model's gradients, or which parameters are kept.

    Attributes
    ----------
    values : Mapping[str, Tensor]
        By the plain keys of the parameters that learn, in their shapes: float32 in [0, 1], or bool.
    """

    kind: ClassVar[str] = "guidance"
    values: Mapping[str, Tensor]

    def check(self, bounds: Bounds) -> None:
        """Refuse other types, and factors outside 0 to 1."""
        super().check(bounds)
        for key, tensor in self.values.items():
            self._dtype(key, tensor, torch.float32, torch.bool)
            if bool(((tensor < 0) | (tensor > 1)).any()):
                raise InvalidInputError(f"{self.name} has factors in '{key}' outside 0 to 1")
