"""FedMRL (Yi et al. 2024, arXiv 2406.00488): features of a shared small model and of a personal one are nested."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch.nn import Linear

from fd_flower.config import AveragingConfig
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.server import Averaging, Reply, Requirements, Status
from fd_flower.wire import Knowledge, Payload, Private


@dataclass(frozen=True)
class Config(AveragingConfig):
    """FedMRL's options."""

    peer: str | None = None
    """The small model's architecture; None: the first client's. Clients receive it with each message."""


@final
class FedMRL(Averaging[Config]):
    """The mean of the clients' small models, by their examples; personal models and projectors stay where they are."""

    status = Status("official code", reconstructed="the mean, since the released code keeps one client's small model")
    requires = Requirements(headed=True)

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Start from the weights that the small model's architecture starts from.

        Raises
        ------
        InvalidInputError
            For a small model without features and a linear head, or with more features than a client's model.
        """
        peer = clients[0].model if self.config.peer is None else self.config.peer
        head = getattr(self.world.module(peer), "head", None)
        if not isinstance(head, Linear):
            raise InvalidInputError(
                f"the small model of fedmrl is '{peer}', without features(x) and a linear head; expected both: set "
                "server.peer to another architecture"
            )
        least = min(clients, key=lambda client: client.features)
        if least.features < head.in_features:
            raise InvalidInputError(
                f"the small model of fedmrl is '{peer}' with {head.in_features} features, client {least.id}'s model "
                f"has {least.features}; expected at most as many: set server.peer to a smaller architecture, for "
                "example 'cnn:0.1', or set model.features"
            )
        return self.checked([self.first_weights(peer, peer)])

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Average the small models, each client's by its number of examples; adapters by `server.adapters`."""
        return self.averaged(replies, knowledge)
