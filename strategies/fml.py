"""FML (Shen et al. 2020, arXiv 2006.16765): a personal model and a shared one, the meme, distill each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from fd_flower.config import AveragingConfig
from fd_flower.core.client import Client
from fd_flower.server import Averaging, Reply, Status
from fd_flower.wire import Knowledge, Payload, Private


@dataclass(frozen=True)
class Config(AveragingConfig):
    """FML's options."""

    peer: str | None = None
    """The meme's architecture; None: the first client's. Clients receive it with each message."""


@final
class FML(Averaging[Config]):
    """The mean of the clients' memes, by their examples; personal models stay where they are."""

    status = Status("reconstruction")

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Start from the weights that the meme's architecture starts from."""
        peer = clients[0].model if self.config.peer is None else self.config.peer
        return self.checked([self.first_weights(peer, peer)])

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Average the memes, each client's by its number of examples; adapters by `server.adapters`."""
        return self.averaged(replies, knowledge)
