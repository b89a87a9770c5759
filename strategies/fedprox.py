"""FedProx (Li et al. 2020, arXiv 1812.06127): FedAvg with a proximal term toward the server's weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from fd_flower.core.client import Client
from fd_flower.server import Mixing, MixingConfig, Reply, Requirements, Status
from fd_flower.wire import Knowledge, Payload, Private


@dataclass(frozen=True)
class Config(MixingConfig):
    """FedProx's options at the server."""


@final
class FedProx(Mixing[Config]):
    """The mean of the clients' weights, by their examples; what is FedProx's own happens at the clients."""

    status = Status("paper")
    requires = Requirements(same_model=True, tasks=("classification", "language", "retrieval"), punctual=False)
    evaluated = "aggregated"

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Start from the weights that every client of the architecture starts from."""
        self.need_graph(clients)
        return self.first_adapted(clients)

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Average the weights, each client's by its number of examples; adapters by `server.adapters`."""
        return self.averaged(replies, knowledge)
