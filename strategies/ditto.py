"""Ditto (Li et al. 2021, arXiv 2012.04221): personal models are held near the average of what clients also train."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from fd_flower.config import AveragingConfig
from fd_flower.core.client import Client
from fd_flower.server import Averaging, Reply, Requirements, Status
from fd_flower.wire import Knowledge, Payload, Private


@dataclass(frozen=True)
class Config(AveragingConfig):
    """Ditto's options at the server."""


@final
class Ditto(Averaging[Config]):
    """The mean of the clients' copies of the server's model, by their examples; personal models stay where they are."""

    status = Status("official code")
    requires = Requirements(same_model=True)

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Start from the weights that every client of the architecture starts from."""
        return self.first_adapted(clients)

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Average the weights, each client's by its number of examples; adapters by `server.adapters`."""
        return self.averaged(replies, knowledge)
