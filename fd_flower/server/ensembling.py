"""Shared code of methods whose server makes one prediction of its clients'."""

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from logging import INFO, WARNING
from typing import Any, TypeVar

import torch
from torch import Tensor

from fd_flower.config import ServerConfig, option
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.flower import log
from fd_flower.ensemble import Rule, mean_of_probabilities, named
from fd_flower.ensemble.trust import distances, pairwise_agreement, trust
from fd_flower.server.strategy import Strategy
from fd_flower.wire import Knowledge, Outlyingness, Private
from fd_flower.wire.replies import Reply

DISAGREE = 0.5
"""Agreement of two clients below which a robust rule cannot tell who attacks from who is alone in knowing a class."""


@dataclass(frozen=True)
class EnsembleConfig(ServerConfig):
    """The options of a server that makes one prediction of its clients'."""

    rule: str = "mean_of_probabilities"
    """How predictions become one: `mean_of_probabilities`, `mean_of_logits` or a robust rule (`median`, say)."""
    rule_args: dict[str, Any] = field(default_factory=dict)
    """The rule's arguments, like `trim` of `trimmed_mean`."""
    tolerate: float = option(0.0, least=0, below=0.5)
    """Share of attackers to tolerate: above 0, a trimmed mean of probabilities that cuts this share off at each end."""
    expguard: float = option(0.0, least=0)
    """Step size of ExpGuard, which lowers the weight of clients whose predictions are far from the rule's; 0: off."""
    expguard_cap: float = option(3.0, least=1)
    """ExpGuard: how many times as much as the median client a client may count."""

    def __post_init__(self) -> None:
        """Check the values, and that the rule takes its arguments."""
        super().__post_init__()
        if self.tolerate and (self.rule != type(self).rule or self.rule_args):
            raise InvalidInputError(
                f"server.tolerate is {self.tolerate}, which is a trimmed mean, and server.rule is '{self.rule}'"
                f"{f' with {self.rule_args}' if self.rule_args else ''}: give one of them"
            )
        _ = self.ensemble

    @property
    def ensemble(self) -> Rule:
        """The rule with its arguments."""
        if self.tolerate:
            return named("trimmed_mean", trim=self.tolerate)
        return named(self.rule, **self.rule_args)

    @property
    def plain(self) -> bool:
        """Whether the rule in force is the method's own and clients' predictions do not decide how much they count."""
        return self.rule == type(self).rule and not self.tolerate and not self.expguard


C = TypeVar("C", bound=EnsembleConfig)
"""A method's server options."""


class Ensembling(Strategy[C], ABC):
    """A strategy that makes one prediction of its clients', by ``server.rule``, ``tolerate`` and ``expguard``."""

    def fused(
        self,
        logprobs: Tensor,
        mask: Tensor,
        replies: Sequence[Reply],
        knowledge: Knowledge,
        round: int,
        weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, list[Private]]:
        """Return the ensemble's log-probabilities [N, C], validity [N], and what the server keeps for its next round.

        With ExpGuard (Roux et al. 2025, arXiv 2402.12265; the official code was read), the rule's result is what
        clients' predictions are compared with. Each client's weight falls by ``exp(-expguard * d)``, where d is the
        mean distance of its predictions to that result in this round, and the ensemble is the mean of probabilities
        with the new weights. The cap is our own.

        Parameters
        ----------
        logprobs : Tensor
            The votes [U, N, C].
        mask : Tensor
            Who voted on which sample, bool [U, N].
        replies : Sequence[Reply]
            Whose votes they are [U].
        knowledge : Knowledge
            The server's, with what it kept in earlier rounds.
        round : int
            The round.
        weight : Tensor | None
            How much a vote counts besides, [U], [U, N] or [U, 1, C]; None: equally.
        """
        config = self.config
        if config.tolerate and round == 1:
            _tell_agreement(pairwise_agreement(logprobs, mask))
        result, valid = config.ensemble(logprobs, mask, weight)
        if not config.expguard:
            return result, valid, []
        before: Mapping[str, Tensor] = found.distances if (found := Outlyingness.find(knowledge)) else {}
        far = distances(logprobs, mask & valid, result)
        ids = [reply.client.id for reply in replies]
        total = torch.stack([far[u] + before.get(client, far.new_zeros(())) for u, client in enumerate(ids)])
        own = trust(total, config.expguard, config.expguard_cap)
        kept = Outlyingness({**before, **dict(zip(ids, total, strict=True))})
        weight = own if weight is None else weight * own.view(-1, *(1,) * (weight.dim() - 1))
        return *mean_of_probabilities(logprobs, mask, weight), [Private(kept)]


def _tell_agreement(share: float | None) -> None:
    """Log how much clients agree, and what a trimmed mean does where they do not."""
    if share is None:
        return
    log(INFO, "two clients agree on %.0f %% of the public samples on which both predict", 100 * share)
    if share < DISAGREE:
        log(
            WARNING,
            "clients agree so little that server.tolerate also cuts off the few who know a class: the teacher is worse "
            "without attackers, and no better protected",
        )
