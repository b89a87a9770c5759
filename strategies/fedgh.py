"""FedGH (Yi et al. 2023, arXiv 2303.13137): the server trains one head for all clients on their class means."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch

from fd_flower.config import ServerConfig, option
from fd_flower.core.client import Client
from fd_flower.core.samples import Samples
from fd_flower.server import Requirements, Status, Strategy
from fd_flower.server.heads import first_head, trained_head
from fd_flower.training import Plan, supervised
from fd_flower.wire import Head, Knowledge, Payload, Prototypes
from fd_flower.wire.replies import Reply


@dataclass(frozen=True)
class Config(ServerConfig):
    """FedGH's options."""

    epochs: int = option(1, least=0)
    """Epochs over a round's class means."""
    batch: int = option(10, least=1)
    """Batch size in class means."""
    lr: float = option(0.01, above=0)
    """Learning rate of SGD on the head."""


@final
class FedGH(Strategy[Config]):
    """A head that learns from clients' class means and replaces the clients' heads."""

    status = Status("official code", reconstructed="the head's training, since the released code never steps the head")
    requires, reply_kinds = Requirements(features=True, single_replies=True), (Prototypes,)

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Start from the head that the first client's architecture starts from, a copy of it."""
        return [first_head(self, clients)]

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        """Train the head by cross-entropy; the mean feature of each class of each client is one sample."""
        received = [Prototypes.need(reply.content) for reply in replies]
        known = torch.stack([p.counts for p in received]) > 0  # [U, C]
        if not bool(known.any()):
            return knowledge.public
        config, values = self.config, torch.stack([p.values for p in received])  # [U, C, F]
        means = Samples(values[known], known.nonzero()[:, 1]).to(self.world.device)
        plan, rng = Plan(config.batch, config.lr, epochs=config.epochs), self.rng("head", round)
        head, loss = trained_head(Head.need(knowledge), supervised, means, None, plan=plan, rng=rng)
        self.log_diagnostics({"head_loss": loss})
        return [head]
