"""FedSpeed (Sun et al. 2023, arXiv 2302.10429): a proximal term, a dual that corrects it, and sharpness-aware steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from fd_flower.config import ServerConfig
from fd_flower.core.client import Client
from fd_flower.ensemble.parameters import mean_of_parameters
from fd_flower.server import Reply, Requirements, Status, Strategy, replied
from fd_flower.wire import Correction, Knowledge, Payload, Private, Weights


@dataclass(frozen=True)
class Config(ServerConfig):
    """FedSpeed's options at the server."""


@final
class FedSpeed(Strategy[Config]):
    """The mean of the clients' weights, by their examples, plus the mean of all clients' duals."""

    status = Status("official code")
    requires = Requirements(same_model=True, tasks=("classification", "language"))
    evaluated = "aggregated"
    summable, sums = (Weights,), True

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload | Private]:
        """Start from the weights that every client starts from, and a dual of zeros, which stays on the server."""
        first = self.first_weights(clients[0].model)
        return [first, Private(Correction.zeros(first))]

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Average the weights, and add the mean dual, which has grown by the clients' drifts of this round."""
        before, dual = Weights.need(knowledge), Correction.need(knowledge)
        received = [Weights.need(reply.content).values for reply in replies]
        mean = mean_of_parameters(received, [reply.examples for reply in replies])
        options: Any = self.settings.client  # of the other half, whose class this one does not know
        if not options.mu:
            return [Weights(mean, before.model), Private(dual)]
        share = replied(self, replies)
        grown = {
            key: (old.double() + share * (mean[key].double() - before.values[key].double())).to(old.dtype)
            for key, old in dual.values.items()
        }
        moved = {key: mean[key] + drift for key, drift in grown.items()}
        return [Weights({**mean, **moved}, before.model), Private(Correction(grown, dual.model))]
