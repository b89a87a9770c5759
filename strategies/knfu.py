"""KnFu (Seyedmohammadi et al. 2024, arXiv 2403.11892): each client distills from clients that predict alike.

A reconstruction: the paper's equations were not at hand. Its documentation marks what is the paper's and what is our
choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from fd_flower.config import ServerConfig, Settings, one_of, option
from fd_flower.core.client import Client
from fd_flower.core.rng import seed_of
from fd_flower.ensemble import mean_of_probabilities
from fd_flower.ensemble.collaboration import Greedy, Votes
from fd_flower.ensemble.similarity import (
    distribution_divergence,
    neighbor_weights,
    over_median,
    sample_divergence,
)
from fd_flower.server import Requirements, Status, Strategy
from fd_flower.server.receiving import own_teacher, teachers_of_each
from fd_flower.wire import Knowledge, Payload, Private, PublicLogits, stack
from fd_flower.wire.replies import Reply

DISTANCES = {"distribution": distribution_divergence, "sample": sample_divergence}


@dataclass(frozen=True)
class Config(ServerConfig):
    """KnFu's options."""

    beta: float = option(1.0, least=0)
    """Sharpness of the weights softmax(-beta d): 0: all clients equally; large: only the client itself."""
    scaled: bool = True
    """Whether d is divided by its median over all pairs, so that beta has the same meaning on any data."""
    distance: str = one_of(*DISTANCES, default="distribution")
    """Distance d: divergence of the mean predictions (`distribution`), or mean divergence over samples (`sample`)."""
    include_self: bool = True
    """Whether a client is one of its own neighbors."""
    group: int | None = option(None, least=1)
    """Largest group of each client, chosen by labels of public samples (DPFL); None: weights by distance."""


@final
class KnFu(Strategy[Config]):
    """An own fusion of all predictions for each client, by whose predictions are like its own."""

    status = Status("reconstruction")
    requires, evaluated = Requirements(public=True, single_replies=True), "received"
    reply_kinds, predicts, distills_public = (PublicLogits,), True, True

    @property
    def one_teacher(self) -> bool:
        """Whether all clients receive the same: each has a teacher of its own."""
        return False

    @classmethod
    def requirements(cls, settings: Settings) -> Requirements:
        """Return ``requires``; groups need the classes of public samples and of clients' own."""
        if cls.options(settings).group is None:
            return cls.requires
        return replace(cls.requires, labels=True, counts=True, without_labels="server.group=null")

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Fuse the probabilities [U, N, C] once a client: log-probabilities [U, N, C].

        A client whose only neighbor is itself receives nothing. A client that did not take part keeps what was fused
        for it when it last did.
        """
        logprobs, mask = stack([PublicLogits.need(reply.content) for reply in replies], self.round_index)
        weight = self._grouped(logprobs, mask, replies, round) if self.config.group else self._alike(logprobs, mask)
        return teachers_of_each(self, mean_of_probabilities, logprobs, mask, weight, replies, knowledge)

    def _alike(self, logprobs: Tensor, mask: Tensor) -> Tensor:
        divergence = DISTANCES[self.config.distance](logprobs, mask)
        if self.config.scaled:
            divergence = over_median(divergence)
        return neighbor_weights(divergence, self.config.beta, include_self=self.config.include_self)

    def _grouped(self, logprobs: Tensor, mask: Tensor, replies: Sequence[Reply], round: int) -> Tensor:
        assert self.config.group is not None
        assert self.world.public is not None
        seed = seed_of(self.settings.run.seed, "receivers", "server", round)
        counts = torch.tensor([reply.client.counts for reply in replies])
        truth = self.world.public[self.round_index].labels.cpu()
        chosen = Greedy(self.config.group).weights(Votes(logprobs, mask, torch.empty(0), seed, counts, truth))
        return chosen / chosen.sum(1, keepdim=True)

    def knowledge_for(self, client: Client, knowledge: Knowledge) -> Sequence[Payload]:
        """Return what was fused for this client, without its name."""
        return own_teacher(client, knowledge)
