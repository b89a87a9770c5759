"""Kinds of knowledge about students that are still being chosen, or handed from client to client."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.payload import Bounds, Payload


@dataclass(frozen=True, eq=False)
class Candidates(Payload):
    """Several models of one architecture, of which one is to be chosen.

    Attributes
    ----------
    values : Mapping[str, Tensor]
        A state dict whose tensors are stacked, [K, ...].
    """

    kind: ClassVar[str] = "candidates"
    values: Mapping[str, Tensor]

    @classmethod
    def of_models(cls, states: Sequence[Mapping[str, Tensor]]) -> Self:
        """Stack state dicts with the same keys and shapes."""
        return cls({key: torch.stack([state[key] for state in states]) for key in states[0]})

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        """Return one model's state dict."""
        return {key: stacked[place] for key, stacked in self.values.items()}


@dataclass(frozen=True, eq=False)
class Scores(Payload):
    """How well each candidate classifies a client's validation samples.

    Attributes
    ----------
    right : Tensor
        [K] int64: samples that each candidate gets right.
    count : Tensor
        [] int64: samples.
    """

    kind: ClassVar[str] = "scores"
    right: Tensor
    count: Tensor

    def check(self, bounds: Bounds) -> None:
        """Refuse anything but counts, and more right samples than there are."""
        self._shape("right", self.right, None)
        self._shape("count", self.count)
        self._integers("count", self.count)
        self._integers("right", self.right, int(self.count) + 1)
        known = None if bounds.client is None else bounds.client.validation
        if known is not None and int(self.count) > known:
            raise InvalidInputError(
                f"{self.name} counts {int(self.count)} samples; by its answer to the handshake this client has {known}"
            )


@dataclass(frozen=True, eq=False)
class Chain(Payload):
    """Along which clients a student is still to be handed.

    Attributes
    ----------
    left : Mapping[str, Tensor]
        Client id -> its place [] int64, the next one's the lowest.
    """

    kind: ClassVar[str] = "chain"
    left: Mapping[str, Tensor]

    @classmethod
    def along(cls, clients: Sequence[str]) -> Self:
        """Return the chain of these clients, in their order."""
        return cls({client: torch.tensor(place) for place, client in enumerate(clients)})

    @property
    def clients(self) -> list[str]:
        """The clients that are left, in order."""
        return sorted(self.left, key=lambda client: int(self.left[client]))

    def check(self, bounds: Bounds) -> None:
        """Refuse anything but places, each taken once."""
        for client, place in self.left.items():
            self._shape(client, place)
            self._integers(client, place)
        if len({int(place) for place in self.left.values()}) < len(self.left):
            raise InvalidInputError(f"{self.name} has two clients at one place")
