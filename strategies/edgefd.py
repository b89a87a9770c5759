"""EdgeFD (Mujtaba et al. 2025, arXiv 2508.14769): clients predict only the public samples near their centroids."""

from collections.abc import Sequence
from dataclasses import dataclass
from logging import WARNING
from typing import final

from fd_flower.core.flower import log
from fd_flower.server import CachingConfig, Requirements, Status, Voting
from fd_flower.wire import Knowledge, Payload, Private, PublicLogits, stack
from fd_flower.wire.replies import Reply


@dataclass(frozen=True)
class Config(CachingConfig):
    """EdgeFD's options."""

    rule: str = "mean_of_logits"
    """How predictions become one: `mean_of_logits`, `mean_of_probabilities` or a robust rule (`median`, say)."""


@final
class EdgeFD(Voting[Config]):
    """The mean of the voters' logits on the round's public samples; nothing is filtered after it."""

    status = Status("reconstruction")
    requires, evaluated, reply_kinds = Requirements(public=True, single_replies=True), "received", (PublicLogits,)

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Average the logits [U, N, C] sample by sample over its voters: log-probabilities [M, C] of those with any."""
        logprobs, mask = stack([PublicLogits.need(reply.content) for reply in replies], self.round_index)
        teacher, voted, kept = self.fused(logprobs, mask, replies, knowledge, round)
        if not bool(voted.any()):
            log(WARNING, "round %s: no public sample has a vote, so clients receive nothing", round)
        self.log_votes(logprobs, mask, teacher, voted)
        taught, cached = self.with_cached(PublicLogits(self.round_index[voted], teacher[voted]), knowledge, round)
        return [taught, *cached, *self.ballots(replies, knowledge), *kept]
