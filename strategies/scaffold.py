"""SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378): control variates correct the drift of clients' steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from logging import WARNING
from typing import final

from fd_flower.config import ServerConfig, option
from fd_flower.core.client import Client
from fd_flower.core.flower import log
from fd_flower.ensemble.parameters import mean_of_parameters, toward
from fd_flower.server import Reply, Requirements, Status, Strategy, replied
from fd_flower.wire import Correction, Knowledge, Payload, Weights

UNEQUAL = 2
"""How many times as many samples as another a client has where their steps are too different."""


@dataclass(frozen=True)
class Config(ServerConfig):
    """SCAFFOLD's options at the server."""

    lr: float = option(1.0, above=0)
    """Learning rate of the server: step toward the mean of the clients' weights, 1 takes the mean itself."""


@final
class Scaffold(Strategy[Config]):
    """The mean of the clients' weights, by their examples, and the mean of all clients' variates."""

    status = Status("reconstruction")
    requires = Requirements(same_model=True, tasks=("classification", "language"))
    evaluated = "aggregated"
    summable, sums = (Weights, Correction), True

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Start from the weights that every client starts from, and a variate of zeros."""
        sizes = [client.examples for client in clients if client.examples]
        if self.settings.client.steps is None and sizes and max(sizes) >= UNEQUAL * min(sizes):
            log(
                WARNING,
                "clients have %s to %s samples, so they take different numbers of steps, under which SCAFFOLD's "
                "corrections do not cancel and a run can diverge: client.steps gives all clients the same number",
                min(sizes),
                max(sizes),
            )
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
        moved = toward(variate.values, gradients, replied(self, replies))
        return [Weights(weights, before.model), Correction(moved, variate.model)]
