"""What a server remembers of how much clients count to each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fd_flower.wire.payload import Bounds, Payload


@dataclass(frozen=True, eq=False)
class Coefficients(Payload):
    """How much each client counts to each other one; it stays on the server.

    Attributes
    ----------
    rows : Mapping[str, Tensor]
        Receiver -> its coefficients, float64 [U], in the order of the mapping's clients.
    """

    kind: ClassVar[str] = "coefficients"
    rows: Mapping[str, Tensor]

    def check(self, bounds: Bounds) -> None:
        """Refuse anything but a square table."""
        for client, row in self.rows.items():
            self._shape(client, row, len(self.rows))
            self._dtype(client, row, torch.float64)

    def among(self, clients: list[str]) -> Tensor:
        """Return the table of these clients, float64 [U, U]: rows add up to 1, and are even for new clients."""
        known = {client: place for place, client in enumerate(self.rows)}
        table = torch.full((len(clients), len(clients)), 1 / len(clients), dtype=torch.float64)
        for place, client in enumerate(clients):
            if client in known:
                found = [float(self.rows[client][known[c]]) if c in known else 1 / len(known) for c in clients]
                table[place] = torch.tensor(found, dtype=torch.float64)
        return table / table.sum(1, keepdim=True)

    def updated(self, clients: list[str], table: Tensor) -> "Coefficients":
        """Return the table with these clients' coefficients [U, U] to each other in place of what they were."""
        names = list(dict.fromkeys([*self.rows, *clients]))
        whole = self.among(names) if self.rows else torch.full((len(names),) * 2, 1 / len(names), dtype=torch.float64)
        places = torch.tensor([names.index(client) for client in clients])
        kept = whole[places][:, places].sum(1, keepdim=True)
        whole[places.unsqueeze(1), places] = table * kept
        return Coefficients(dict(zip(names, whole, strict=True)))
