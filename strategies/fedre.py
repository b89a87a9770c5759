"""FedRE (Yao et al. 2025, arXiv 2511.22265): one entangled representation per client trains a shared head."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F

from fd_flower.config import ServerConfig, option
from fd_flower.core.client import Client
from fd_flower.core.samples import Samples
from fd_flower.server import Requirements, Status, Strategy
from fd_flower.server.heads import first_head, trained_head
from fd_flower.training import Plan
from fd_flower.wire import Head, Knowledge, Payload, Representation
from fd_flower.wire.replies import Reply


@dataclass(frozen=True)
class Config(ServerConfig):
    """FedRE's options."""

    epochs: int = option(1, least=0)
    """Epochs over a round's representations."""
    batch: int = option(32, least=1)
    """Batch size in representations; with fewer clients, one step per epoch."""
    lr: float = option(0.01, above=0)
    """Learning rate of SGD on the head."""


@final
class FedRE(Strategy[Config]):
    """A head that learns from clients' entangled representations and replaces the clients' heads."""

    status = Status("official code", reconstructed="client.entangle other than rap")
    requires = Requirements(features=True, single_replies=True)

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Start from the head that the first client's architecture starts from, a copy of it."""
        return [first_head(self, clients)]

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        """Train the head by soft cross-entropy, summed over the mini-batch; a client without samples says nothing."""
        sent = [Representation.find(reply.content) for reply in replies]
        received = [r for r in sent if r is not None]
        if not received:
            return knowledge.public
        config = self.config
        samples = Samples(torch.stack([r.values for r in received])).to(self.world.device)
        labels = torch.stack([r.label for r in received]).to(self.world.device)
        plan, rng = Plan(config.batch, config.lr, epochs=config.epochs), self.rng("head", round)
        head, loss = trained_head(Head.need(knowledge), soft_cross_entropy, samples, labels, plan=plan, rng=rng)
        self.log_diagnostics({"head_loss": loss / min(len(received), config.batch)})
        return [head]


def soft_cross_entropy(head: Module, x: Tensor, y: None, label: Tensor) -> Tensor:
    """Return the sum over the mini-batch of the cross-entropy with soft labels: x [B, F], label [B, C]."""
    return F.cross_entropy(head(x), label, reduction="sum")
