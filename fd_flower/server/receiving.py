"""Shared code of methods that can make each client a teacher of its own (``server.receivers``)."""

from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from fd_flower.config import Settings
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import seed_of
from fd_flower.ensemble import Rule
from fd_flower.ensemble.collaboration import Collaboration, Votes, rule_of
from fd_flower.ensemble.receivers import for_receivers
from fd_flower.ensemble.similarity import effective_neighbors
from fd_flower.server.caching import Caching, CachingConfig
from fd_flower.server.method import Method
from fd_flower.server.requirements import Requirements
from fd_flower.wire import Coefficients, Knowledge, Payload, Private, PublicLogits
from fd_flower.wire.replies import Reply

ALL = "all"

ALONE = 1 - 1e-6
"""A client that counts this much to itself would learn what it says already."""


@dataclass(frozen=True)
class ReceivingConfig(CachingConfig):
    """The options of a server that can make each client a teacher of its own."""

    receivers: str = ALL
    """Whose predictions each client learns from: those of `all`, of its cluster (`clusters`), of all by trained
    `coefficients`, or of a group that is chosen for it (`greedy`)."""
    receivers_args: dict[str, Any] = field(default_factory=dict)
    """The arguments of `server.receivers`, like `clusters` of `clusters`."""

    def __post_init__(self) -> None:
        """Check the values, and that the rule goes with the others."""
        super().__post_init__()
        if self.receivers == ALL:
            if self.receivers_args:
                raise InvalidInputError(
                    f"server.receivers_args is {self.receivers_args}, and server.receivers=all takes none"
                )
            return
        _ = self.collaboration
        asked = {"server.cache": self.cache, "server.expguard": self.expguard}
        for name, value in asked.items():
            if value:
                raise InvalidInputError(
                    f"{name} is {value:g}, which is for one teacher of all clients, and server.receivers="
                    f"{self.receivers} makes one for each: leave one of both out"
                )

    @property
    def collaboration(self) -> Collaboration | None:
        """The rule with its arguments; None: all clients have one teacher."""
        return None if self.receivers == ALL else rule_of(self.receivers, self.receivers_args)


def unchanged(teacher: Tensor) -> Tensor:
    """Return a teacher that nothing sharpens."""
    return teacher


C = TypeVar("C", bound=ReceivingConfig)
"""A method's server options."""


class Receiving(Caching[C], ABC):
    """A strategy that makes one teacher of its clients' predictions, or one for each of them."""

    @property
    def one_teacher(self) -> bool:
        """Whether all clients receive the same."""
        return self.config.collaboration is None

    @classmethod
    def receiving(cls, requires: Requirements, settings: Settings) -> Requirements:
        """Return what is required besides where each client has a teacher of its own."""
        rule = cls.options(settings).collaboration
        if rule is None:
            return requires
        return replace(
            requires,
            single_replies=True,
            punctual=True,
            counts=requires.counts or rule.counts,
            labels=requires.labels or rule.labels,
            without_labels="server.receivers=all" if rule.labels else requires.without_labels,
        )

    def knowledge_for(self, client: Client, knowledge: Knowledge) -> Sequence[Payload]:
        """Return the one teacher, or the client's own."""
        return super().knowledge_for(client, knowledge) if self.one_teacher else own_teacher(client, knowledge)

    def taught_each(
        self,
        logprobs: Tensor,
        mask: Tensor,
        replies: Sequence[Reply],
        knowledge: Knowledge,
        round: int,
        *,
        weight: Tensor | None = None,
        sharpened: Callable[[Tensor], Tensor] = unchanged,
    ) -> list[Private]:
        """Return a teacher for each client, and what the server keeps for its next round.

        Parameters
        ----------
        logprobs : Tensor
            The votes [U, N, C].
        mask : Tensor
            Who voted on which sample, bool [U, N].
        replies : Sequence[Reply]
            Whose votes they are [U].
        knowledge : Knowledge
            The server's.
        round : int
            The round.
        weight : Tensor | None
            How much a vote counts besides, [U] or [U, N]; None: equally.
        sharpened : Callable[[Tensor], Tensor]
            What becomes of a teacher's log-probabilities [..., C].
        """
        rule = self.config.collaboration
        if rule is None:
            raise InvalidInputError("server.receivers is all, so no client has a teacher of its own")
        names = [reply.client.id for reply in replies]
        before = Coefficients.find(knowledge) or Coefficients({})
        public = self.world.public
        votes = Votes(
            logprobs,
            mask,
            before.among(names),
            seed_of(self.settings.run.seed, "receivers", "server", round),
            torch.tensor([reply.client.counts for reply in replies]),
            public[self.round_index].labels.cpu() if rule.labels and public is not None else torch.empty(0).long(),
        )
        found = rule.weights(votes)
        table = found / found.sum(1, keepdim=True)
        fuse = (self.config.ensemble, logprobs, mask, table, replies, knowledge)
        taught = teachers_of_each(self, *fuse, weight=weight, sharpened=sharpened)
        kept = [Private(before.updated(names, table))] if rule.keeps else []
        return [*taught, *kept]


def teachers_of_each(
    method: Method[Any],
    rule: Rule,
    logprobs: Tensor,
    mask: Tensor,
    table: Tensor,
    replies: Sequence[Reply],
    knowledge: Knowledge,
    *,
    weight: Tensor | None = None,
    sharpened: Callable[[Tensor], Tensor] = unchanged,
) -> list[Private]:
    """Return each client's teacher, and log who learns from whom; teachers of clients that did not take part stay.

    A client that learns from itself alone receives nothing: its own predictions would add rounding noise, which Adam
    amplifies.

    Parameters
    ----------
    method : Method
        Whose round it is.
    rule : Rule
        How predictions become one.
    logprobs, mask : Tensor
        The votes [U, N, C], and who voted on which sample, bool [U, N].
    table : Tensor
        How much each client counts to each receiver, of 1 [U, U].
    replies : Sequence[Reply]
        Whose votes they are [U].
    knowledge : Knowledge
        The server's, with the teachers before.
    weight : Tensor | None
        How much a vote counts besides, [U] or [U, N]; None: equally.
    sharpened : Callable[[Tensor], Tensor]
        What becomes of a teacher's log-probabilities [..., C].
    """
    each = table if weight is None else table.view(*table.shape, *[1] * (weight.dim() - 1)) * weight
    fused, valid = for_receivers(rule, logprobs, mask, each)
    fused = sharpened(fused)
    method.log_votes(logprobs, mask, fused, valid)
    own, neighbors = table.diagonal(), effective_neighbors(table)
    method.log_diagnostics({"self_weight": float(own.mean()), "neighbors": float(neighbors.mean())})
    found = []
    for reply, alone, count, teacher, rows in zip(replies, own, neighbors, fused, valid, strict=True):
        client = reply.client.id
        method.log_diagnostics({"self_weight": float(alone), "neighbors": float(count)}, client)
        if alone < ALONE and bool(rows.any()):
            found.append(PublicLogits(method.round_index[rows], teacher[rows], client))
    here = {reply.client.id for reply in replies}
    absent = [p for p in PublicLogits.all(knowledge) if p.client not in here]
    return [Private(p) for p in [*absent, *found]]


def own_teacher(client: Client, knowledge: Knowledge) -> Sequence[PublicLogits]:
    """Return a client's own teacher, without its name; nothing where it has none."""
    return [replace(p, client="") for p in PublicLogits.all(knowledge) if p.client == client.id]
