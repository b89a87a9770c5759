"""FD, federated distillation (Jeong et al. 2018, arXiv 1811.11479): clients exchange their mean logits per class."""

from collections.abc import Sequence
from typing import final

import torch

from fd_flower.server import Requirements, Status, Strategy, late_weights
from fd_flower.wire import ClassLogits, Knowledge, Payload
from fd_flower.wire.replies import Reply


@final
class FD(Strategy):
    """The server adds up the clients' tables and says whose are in them; each client takes its own out again."""

    status = Status("paper")
    requires, summable, sums = Requirements(punctual=False), (ClassLogits,), True

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        """Add the tables of sums [C, C] and counts [C] (algorithm 1, lines 9 to 15, but for the leaving out).

        Late replies count by ``server.staleness``, which the paper does not have.
        """
        received = [ClassLogits.need(reply.content) for reply in replies]
        rounds = {client.id: round - reply.late for reply in replies for client in reply.clients}
        if (late := late_weights(replies)) is None:
            sums, counts = (torch.stack([getattr(t, part) for t in received]).sum(0) for part in ("sums", "counts"))
            return [ClassLogits.joined(sums, counts, rounds)]
        sums = (torch.stack([t.sums for t in received]) * late.view(-1, 1, 1)).sum(0)
        counts = (torch.stack([t.counts for t in received]) * late.view(-1, 1)).sum(0)
        return [ClassLogits.joined(sums, counts, rounds, {reply.client.id: reply.weight for reply in replies})]
