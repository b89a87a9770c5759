"""FedProx (Li et al. 2020, arXiv 1812.06127): FedAvg with a proximal term toward the server's weights."""

from collections.abc import Sequence
from typing import final

from fd_flower.core.client import Client
from fd_flower.server import Requirements, Status, Strategy
from fd_flower.wire import Knowledge, Payload, Weights
from fd_flower.wire.replies import Reply, mean_weights


@final
class FedProx(Strategy):
    """The mean of the clients' weights, by their examples; what is FedProx's own happens at the clients."""

    status = Status("paper")
    requires = Requirements(same_model=True, tasks=("classification", "retrieval"))
    evaluated, summable = "aggregated", (Weights,)

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Start from the weights that every client of the architecture starts from."""
        return [self.first_weights(clients[0].model)]

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        """Average the weights, each client's by its number of examples."""
        return list(mean_weights(replies).values())
