"""FD, federated distillation (Jeong et al. 2018, arXiv 1811.11479): clients exchange their mean logits per class."""

from collections.abc import Mapping, Sequence
from typing import final
from weakref import WeakKeyDictionary

import torch

from fd_flower.core.client import Client
from fd_flower.server import Status, Strategy
from fd_flower.wire import ClassLogits, Knowledge, Payload
from fd_flower.wire.replies import Reply


@final
class FD(Strategy):
    """The server adds up the clients' tables and says to each whether its own is in them, which it takes out again."""

    status = Status("paper")
    summable, sums = (ClassLogits,), True

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        """Add the tables of sums [C, C] and counts [C] (algorithm 1, lines 9 to 15, but for the leaving out)."""
        received = [ClassLogits.need(reply.content) for reply in replies]
        rounds = {client.id: round for reply in replies for client in reply.clients}
        sums, counts = (torch.stack([getattr(t, part) for t in received]).sum(0) for part in ("sums", "counts"))
        return [ClassLogits.joined(sums, counts, rounds)]

    def knowledge_for(self, client: Client, knowledge: Knowledge) -> Sequence[Payload]:
        """Return the table, with the round of the client's own one where that is in it."""
        table = ClassLogits.find(knowledge)
        return [] if table is None else [_sent(table).get(client.id) or _sent(table)[""]]


def _sent(table: ClassLogits) -> Mapping[str, ClassLogits]:
    """Return what each client that is in a table receives, and by "" all others: few objects, encoded once each."""
    if table not in _SENT:
        rounds = table.rounds
        of = {n: ClassLogits(table.sums, table.counts, round=torch.tensor(n)) for n in set(rounds.values())}
        own = {client: of[number] for client, number in rounds.items()}
        _SENT[table] = {**own, "": ClassLogits(table.sums, table.counts)}
    return _SENT[table]


_SENT: "WeakKeyDictionary[ClassLogits, Mapping[str, ClassLogits]]" = WeakKeyDictionary()
