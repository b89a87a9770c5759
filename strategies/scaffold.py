"""SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378): control variates correct the drift of clients' steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fd_flower.config import ServerConfig, option
from fd_flower.core.client import Client
from fd_flower.ensemble.parameters import mean_of_parameters
from fd_flower.server import Reply, Requirements, Status, Strategy
from fd_flower.wire import Correction, Knowledge, Payload, Weights


@dataclass(frozen=True)
class Config(ServerConfig):
    """SCAFFOLD's options at the server."""

    lr: float = option(1.0, above=0)
    """Learning rate of the server: step toward the mean of the clients' weights, 1 takes the mean itself."""


@final
class Scaffold(Strategy[Config]):
    """The mean of the clients' weights, by their examples, and the mean of all clients' variates."""

    status = Status("reconstruction")
    requires = Requirements(same_model=True, tasks=("classification", "language", "retrieval"))
    evaluated = "aggregated"
    summable, sums = (Weights, Correction), True

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Start from the weights that every client starts from, and a variate of zeros."""
        first = self.first_weights(clients[0].model)
        return [first, Correction.zeros(first)]

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        """Step toward the mean of the weights; move the variate as far as those who replied are of all clients."""
        examples = [reply.examples for reply in replies]
        before, variate = Weights.need(knowledge), Correction.need(knowledge)
        weights = mean_of_parameters([Weights.need(reply.content).values for reply in replies], examples)
        gradients = mean_of_parameters([Correction.need(reply.content).values for reply in replies], examples)
        if self.config.lr != 1:
            weights |= toward({key: before.values[key] for key in variate.values}, weights, self.config.lr)
        moved = toward(variate.values, gradients, self.replied(replies))
        return [Weights(weights, before.model), Correction(moved, variate.model)]

    def replied(self, replies: Sequence[Reply]) -> float:
        """Return how much of the federation has replied, by examples as the means; |S| / N where these are unknown."""
        counted = self.settings.privacy.dp == "none" and all(client.examples for client in self.clients)

        def size(clients: Sequence[Client]) -> int:
            return sum(client.examples if counted else 1 for client in clients)

        return size([client for reply in replies for client in reply.clients]) / size(self.clients)


def toward(start: Mapping[str, Tensor], end: Mapping[str, Tensor], step: float) -> dict[str, Tensor]:
    """Return what lies ``step`` of the way from one state to another, by the keys of the first, in its types."""
    return {key: torch.lerp(tensor.double(), end[key].double(), step).to(tensor.dtype) for key, tensor in start.items()}
