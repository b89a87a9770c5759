"""Relay, a toy: clients count their samples, receive the total, and answer with what they received."""

from collections.abc import Sequence
from typing import final

import torch

from fd_flower.core.client import Client
from fd_flower.server import Strategy
from fd_flower.wire import Knowledge, Payload, Private, Prototypes, Weights
from fd_flower.wire.replies import Reply


@final
class Relay(Strategy):
    """Two exchanges a round: the total of the first is received in the second, beside each client's own number."""

    exchanges = ("query.count", "train")

    def initial_knowledge(self, clients: Sequence[Client]) -> Sequence[Payload | Private]:
        """Keep a secret."""
        return [Private(Weights({"secret": torch.zeros(1)}, "secret"))]

    def between(
        self, exchange: str, replies: Sequence[Reply], knowledge: Knowledge, round: int
    ) -> Sequence[Payload | Private]:
        """Add up the counts, and count in secret how often."""
        total = torch.stack([Prototypes.need(reply.content).counts for reply in replies]).sum(0)
        times = Weights.need(knowledge).values["secret"] + 1
        return [_table(total), Private(Weights({"secret": times}, "secret"))]

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Forget the total, keep the secret."""
        return list(map(Private, knowledge.private))

    def knowledge_for(self, client: Client, knowledge: Knowledge) -> Sequence[Payload]:
        """Tell each client its own number."""
        return [*knowledge.public, Weights({"number": torch.tensor([client.number])})]


def _table(counts: torch.Tensor) -> Prototypes:
    return Prototypes(torch.zeros(len(counts), 1), counts)
