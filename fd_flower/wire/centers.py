"""What a server keeps of clusters of clients that each have weights of their own."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from fd_flower.wire.payload import Bounds, Payload
from fd_flower.wire.weights import Weights


@dataclass(frozen=True, eq=False)
class Center(Payload):
    """The weights of one cluster and its members; it stays on the server.

    Attributes
    ----------
    values : Mapping[str, Tensor]
        The state dict.
    members : Mapping[str, Tensor]
        Client id -> its number of training samples [] int64.
    cluster : str
        Which cluster.
    """

    kind: ClassVar[str] = "center"
    named_by: ClassVar[str] = "cluster"
    values: Mapping[str, Tensor]
    members: Mapping[str, Tensor]
    cluster: str

    @cached_property
    def weights(self) -> Weights:
        """The weights as its members receive them: one object, whose record is made once."""
        return Weights(self.values)

    def check(self, bounds: Bounds) -> None:
        """Refuse anything but numbers of samples of members."""
        for client, examples in self.members.items():
            self._shape(client, examples)
            self._dtype(client, examples, torch.int64)
