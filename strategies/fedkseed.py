"""FedKSeed (Qin et al. 2023, arXiv 2312.06353): models are tuned by numbers of directions and a scalar for each.

Nothing is differentiated: a step goes along one of K random directions, by the difference of two losses. The first
weights, the seed and K sums of scalars determine the model, bit for bit, whatever its size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fd_flower.config import ServerConfig, option
from fd_flower.core.client import Client
from fd_flower.server import Reply, Requirements, Status, Strategy
from fd_flower.training.zeroth import learning, replay
from fd_flower.wire import Knowledge, Payload, Private, SeedScalars, Weights


@dataclass(frozen=True)
class Config(ServerConfig):
    """FedKSeed's options."""

    candidates: int = option(4096, least=1)
    """K, the directions that steps can take."""


@final
class FedKSeed(Strategy[Config]):
    """The sum of all steps along each direction, each client's by its number of examples."""

    status = Status("official code")
    requires = Requirements(same_model=True, tasks=("classification", "language"))
    evaluated, reply_kinds = "aggregated", (SeedScalars,)

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload | Private]:
        """Start from no step at all."""
        return self._with_model(torch.zeros(self.config.candidates, dtype=torch.float64), clients[0].model)

    def known_directions(self) -> int:
        """Return K."""
        return self.config.candidates

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Add the mean of the clients' steps along each direction to what was known."""
        count, known = self.config.candidates, SeedScalars.need(knowledge)
        examples = sum(reply.examples for reply in replies)
        total = known.total(count)
        for reply in replies:
            sent = SeedScalars.need(reply.content)
            total += sent.total(count) * (reply.examples / examples if examples else 1 / len(replies))
        return self._with_model(total, replies[0].client.model)

    def _with_model(self, total: Tensor, name: str) -> list[Payload | Private]:
        """Return what clients receive, and the model that it makes, which is evaluated and never sent."""
        scalars = SeedScalars(total.float())
        module = self.world.load(name, self.first_weights(name).values)
        replay(learning(module), self.settings.run.seed, scalars.directions, scalars.values)
        values = {key: tensor.detach().cpu().clone() for key, tensor in module.state_dict().items()}
        return [scalars, Private(Weights(values))]
