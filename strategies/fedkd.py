"""FedKD (Wu et al. 2022, arXiv 2108.13323): a local mentor teaches a shared mentee, which travels in low rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import final

import torch
from torch import Tensor

from fd_flower.config import ServerConfig, option
from fd_flower.core.client import Client
from fd_flower.ensemble.parameters import mean_of_parameters
from fd_flower.server import Requirements, Status, Strategy
from fd_flower.wire import Holders, Knowledge, Payload, Private, Update, Weights
from fd_flower.wire.lowrank import applied, difference
from fd_flower.wire.replies import Reply


@dataclass(frozen=True)
class Config(ServerConfig):
    """FedKD's options."""

    mentee: str | None = None
    """The shared model's architecture; None: the first client's. Clients receive it with each message."""
    energy_start: float = option(0.95, above=0, most=1)
    """Share of an update's energy that is kept in compression, in the first round; 1: lossless up to rounding."""
    energy_end: float = option(0.98, above=0, most=1)
    """The same in the last round; linear in between. Applies to upload and download."""

    def energy(self, round: int) -> float:
        """Return the share of energy that travels in a round, counted from 1."""
        return self.energy_start + round / self.rounds * (self.energy_end - self.energy_start)


@final
class FedKD(Strategy[Config]):
    """The mean of the mentees' updates, compressed again; clients that missed the last one get the whole mentee."""

    status = Status("official code")
    requires, reply_kinds = Requirements(headed=True, single_replies=True), (Update,)

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload]:
        """Start from the weights that the mentee's architecture starts from."""
        mentee = clients[0].model if self.config.mentee is None else self.config.mentee
        return [self.first_weights(mentee, mentee)]

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Average the mentees by examples and compress what has changed; the server takes what clients will have."""
        before = Weights.need(knowledge)
        updates = [Update.need(reply.content).values for reply in replies]
        mentees = [applied(before.values, values) for values in updates]
        mean = mean_of_parameters(mentees, [reply.examples for reply in replies])
        energy = self.config.energy(round)
        update = difference(mean, before.values, energy)
        sent = fmean(map(_numbers, updates))
        self.log_diagnostics({"energy": energy, "numbers_up": sent, "numbers_down": float(_numbers(update))})
        return [
            Weights(applied(before.values, update), before.model),
            Private(Update(update, before.model)),
            Private(Holders({reply.client.id: torch.tensor(round - 1) for reply in replies})),
        ]

    def knowledge_for(self, client: Client, knowledge: Knowledge) -> Sequence[Payload]:
        """Return the last update, or the whole mentee where the client does not know the one before."""
        update, known = Update.find(knowledge), Holders.find(knowledge)
        if update is not None and known is not None and client.id in known.rounds:
            return [update]
        return [Weights.need(knowledge)]


def _numbers(values: Mapping[str, Tensor]) -> int:
    """Return how many floating-point numbers an update is."""
    return sum(value.numel() for value in values.values() if value.is_floating_point())
