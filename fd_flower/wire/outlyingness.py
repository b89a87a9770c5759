"""What a server remembers of how far clients' predictions were from the ensemble's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fd_flower.wire.payload import Bounds, Payload


@dataclass(frozen=True, eq=False)
class Outlyingness(Payload):
    """How far each client's predictions were from the ensemble's, over all rounds; it stays on the server.

    Attributes
    ----------
    distances : Mapping[str, Tensor]
        Client id -> the sum of the rounds' mean Euclidean distances of probabilities [] float64.
    """

    kind: ClassVar[str] = "outlyingness"
    distances: Mapping[str, Tensor]

    def check(self, bounds: Bounds) -> None:
        """Refuse anything but distances."""
        for client, distance in self.distances.items():
            self._shape(client, distance)
            self._dtype(client, distance, torch.float64)
