"""FedProto (Tan et al. 2022, arXiv 2105.00243): clients pull their features to the mean prototype of each class."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch

from fd_flower.config import ServerConfig, Settings, one_of
from fd_flower.server import Requirements, Status, Strategy
from fd_flower.wire import Knowledge, Payload, Prototypes
from fd_flower.wire.replies import Reply


@dataclass(frozen=True)
class Config(ServerConfig):
    """FedProto's options."""

    weighting: str = one_of("examples", "clients", default="examples")
    """Weights of a prototype's mean: by `examples`, or equal for all `clients` (the authors' code)."""


@final
class FedProto(Strategy[Config]):
    """The mean of the clients' prototypes, class by class."""

    status = Status("official code")
    requires, summable, sums = Requirements(features=True), (Prototypes,), True

    @classmethod
    def requirements(cls, settings: Settings) -> Requirements:
        """Return ``needs``: where clients count the same, a sum over samples does not tell the mean."""
        return replace(cls.requires, single_replies=cls.options(settings).weighting == "clients")

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        """Average the prototypes [C, F] by samples of the class, without equation 6's further 1 / holders.

        A class that no client has in this round keeps its previous prototype.
        """
        received = [Prototypes.need(reply.content) for reply in replies]
        counts = torch.stack([p.counts for p in received])  # [U, C]
        weights = counts.double() if self.config.weighting == "examples" else (counts > 0).double()
        values = torch.stack([p.values for p in received]).double()  # [U, C, F]
        mean = (weights.unsqueeze(2) * values).sum(0) / weights.sum(0).clamp_min(1.0).unsqueeze(1)
        total = counts.sum(0)
        if before := Prototypes.find(knowledge):
            absent = total == 0
            mean = mean.where(~absent.unsqueeze(1), before.values.double())
            total = total.where(~absent, before.counts)
        return [Prototypes(mean.float(), total)]
