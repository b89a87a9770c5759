"""FD, federated distillation (Jeong et al. 2018, arXiv 1811.11479): clients exchange their mean logits per class."""

from collections.abc import Mapping, Sequence
from typing import Any, final
from weakref import WeakKeyDictionary

import torch

from fd_flower.config import Settings
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.server import Requirements, Status, Strategy, late_weights
from fd_flower.wire import ClassLogits, Knowledge, Payload
from fd_flower.wire.replies import Reply


@final
class FD(Strategy):
    """The server adds up the clients' tables and says to each whether its own is in them, which it takes out again."""

    status = Status("paper")
    requires, summable, sums = Requirements(punctual=False), (ClassLogits,), True

    @classmethod
    def requirements(cls, settings: Settings) -> Requirements:
        """Return ``requires``; differential privacy bounds one mean of probabilities a class and client."""
        client: Any = settings.client
        if settings.privacy.dp != "none" and (client.weighting, client.output) != ("clients", "probabilities"):
            raise InvalidInputError(
                f"privacy.dp={settings.privacy.dp} with client.weighting={client.weighting} client.output="
                f"{client.output}: fd's clients add one mean of probabilities a class, which takes "
                "client.weighting=clients client.output=probabilities"
            )
        return cls.requires

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

    def knowledge_for(self, client: Client, knowledge: Knowledge) -> Sequence[Payload]:
        """Return the table, with the round of the client's own one where that is in it.

        Clients of a secure sum have to receive the same, and so whose tables are in it.
        """
        table = ClassLogits.find(knowledge)
        if table is None or self.settings.privacy.sum != "none":
            return [] if table is None else [table]
        return [_sent(table).get(client.id) or _sent(table)[""]]


def _sent(table: ClassLogits) -> Mapping[str, ClassLogits]:
    """Return what each client that is in a table receives, and by "" all others: few objects, encoded once each."""
    if table not in _SENT:
        rounds, weights = table.rounds, table.weights
        of: dict[tuple[int, float], ClassLogits] = {}
        own = {}
        for client, number in rounds.items():
            key = number, weights.get(client, 1.0)
            of[key] = of.get(key) or _for_one(table, *key)
            own[client] = of[key]
        _SENT[table] = {**own, "": ClassLogits(table.sums, table.counts)}
    return _SENT[table]


def _for_one(table: ClassLogits, round: int, weight: float) -> ClassLogits:
    counted = None if weight == 1.0 else torch.tensor(weight, dtype=torch.float64)
    return ClassLogits(table.sums, table.counts, round=torch.tensor(round), weight=counted)


_SENT: "WeakKeyDictionary[ClassLogits, Mapping[str, ClassLogits]]" = WeakKeyDictionary()
