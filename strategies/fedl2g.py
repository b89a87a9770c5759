"""FedL2G (Zhang et al. 2024, arXiv 2410.06490): guides of classes learn from clients' loss on held-out samples."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch

from fd_flower.config import ServerConfig, Settings, option
from fd_flower.core.client import Client
from fd_flower.core.clients import kinds
from fd_flower.core.errors import InvalidInputError
from fd_flower.server import Requirements, Status, Strategy
from fd_flower.wire import GuideGradients, Guides, Knowledge, Payload
from fd_flower.wire.replies import Reply


@dataclass(frozen=True)
class Config(ServerConfig):
    """FedL2G's options."""

    lr: float = option(0.1, above=0)
    """Learning rate of SGD on the guides."""
    clip: float = option(100.0, above=0)
    """Largest norm of the mean gradient of all guides together."""


@final
class FedL2G(Strategy[Config]):
    """Guides that follow the mean of the clients' gradients, class by class."""

    status = Status("official code")
    requires, summable = Requirements(), (GuideGradients,)

    @classmethod
    def requirements(cls, settings: Settings) -> Requirements:
        """Return ``requires``; guides of features need one feature size.

        Raises
        ------
        InvalidInputError
            If no round would be left in which clients train.
        """
        client: Any = settings.client  # its class is in the other half
        if client.warmup_rounds >= settings.server.rounds:
            raise InvalidInputError(
                f"client.warmup_rounds is {client.warmup_rounds} of server.rounds={settings.server.rounds}, so no "
                "client would train; expected fewer: lower it, or raise server.rounds"
            )
        return replace(cls.requires, features=client.guide == "features")

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Draw the guides from the standard normal distribution."""
        some = clients[0]
        client: Any = self.settings.client
        if client.kd_weight and client.quiz_batches:
            self._check_models(clients)
        size = some.features if self.requirements(self.settings).features else some.classes
        return [Guides(torch.randn(some.classes, size, generator=self.rng("guides")))]

    def _check_models(self, clients: Sequence[Client]) -> None:
        """Refuse the text model that PyTorch cannot differentiate twice, as the gradients of guides need it."""
        for client in kinds(clients):
            if client.model.partition(":")[0] == "bag":
                raise InvalidInputError(
                    f"fedl2g differentiates models twice, and PyTorch cannot do so with '{client.model}' "
                    "(embedding_bag): take another model, or client.quiz_batches=0 for guides that stay"
                )

    def known_guide(self) -> int | None:
        """Return the number of logits or features."""
        return Guides.need(self.knowledge).values.shape[1]

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        """Take a step against the mean gradient of each class, over the clients that have one."""
        received = [GuideGradients.need(reply.content) for reply in replies]
        counts = torch.stack([g.counts for g in received]).double().unsqueeze(2)  # [U, C, 1]
        sums = (counts * torch.stack([g.values for g in received])).sum(0)
        mean = sums / counts.sum(0).clamp_min(1.0)  # [C, D]
        norm = float(mean.norm())
        self.log_diagnostics({"guide_gradient": norm})
        step = self.config.lr * min(1.0, self.config.clip / (norm + 1e-6))
        return [Guides((Guides.need(knowledge).values - step * mean).float())]
