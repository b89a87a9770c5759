"""FedE4RAG (Mao et al. 2025, arXiv 2504.19101): clients distill the averaged retriever into their own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from fd_flower.config import ServerConfig, Settings, one_of
from fd_flower.core.client import Client
from fd_flower.ensemble.parameters import mean_of_parameters
from fd_flower.server import Requirements, Status, Strategy
from fd_flower.wire import Knowledge, Payload, Weights
from fd_flower.wire.replies import Reply, mean_weights


@dataclass(frozen=True)
class Config(ServerConfig):
    """FedE4RAG's options."""

    mean: str = one_of("examples", "plain", default="examples")
    """Weights of the average: `examples` (pairs of question and passage) or `plain` (all clients equally)."""


@final
class FedE4RAG(Strategy[Config]):
    """The mean of what clients have learned; each resumes its own."""

    status = Status("official code", reconstructed="the secure sum in place of homomorphic encryption")
    requires = Requirements(same_model=True, tasks=("retrieval",))
    evaluated, summable, sums = "aggregated", (Weights,), True

    @classmethod
    def requirements(cls, settings: Settings) -> Requirements:
        """Ask for every client's retriever where the mean is plain: what a sum gives is a mean by examples."""
        return replace(cls.requires, single_replies=cls.options(settings).mean == "plain")

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Start from the retriever that every client starts from."""
        return [self.first_weights(clients[0].model)]

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        """Average what learns, by examples or plainly."""
        if self.config.mean == "examples":
            return list(mean_weights(replies).values())
        received = [Weights.need(reply.content).values for reply in replies]
        return [Weights(mean_of_parameters(received, [1] * len(received)))]
