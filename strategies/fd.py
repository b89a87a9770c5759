"""FD, federated distillation (Jeong et al. 2018, arXiv 1811.11479): clients exchange their mean logits per class."""

from collections.abc import Sequence
from typing import final

import torch

from fd_flower.server import Status, Strategy
from fd_flower.wire import ClassLogits, Knowledge, Payload
from fd_flower.wire.replies import Reply


@final
class FD(Strategy):
    """The server adds up the clients' tables and says whose are in them; each client takes its own out again."""

    status = Status("paper")
    summable, sums = (ClassLogits,), True

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        """Add the tables of sums [C, C] and counts [C] (algorithm 1, lines 9 to 15, but for the leaving out)."""
        received = [ClassLogits.need(reply.content) for reply in replies]
        rounds = {client.id: round for reply in replies for client in reply.clients}
        sums, counts = (torch.stack([getattr(t, part) for t in received]).sum(0) for part in ("sums", "counts"))
        return [ClassLogits.joined(sums, counts, rounds)]
