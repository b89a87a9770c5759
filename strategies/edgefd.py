"""EdgeFD (Mujtaba et al. 2025, arXiv 2508.14769): clients predict what is near their centroids."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from logging import WARNING
from typing import Any, final

from fd_flower.config import ServerConfig
from fd_flower.core.flower import log
from fd_flower.ensemble import named
from fd_flower.server import Requirements, Status, Voting
from fd_flower.wire import Knowledge, Payload, Private, PublicLogits, stack
from fd_flower.wire.replies import Reply


@dataclass(frozen=True)
class Config(ServerConfig):
    """EdgeFD's options."""

    rule: str = "mean_of_logits"
    """How the voters' predictions become one, a rule of `fd_flower.ensemble` by name."""
    rule_args: dict[str, Any] = field(default_factory=dict)
    """The rule's arguments."""

    def __post_init__(self) -> None:
        """Check the values, and that the rule takes its arguments."""
        super().__post_init__()
        named(self.rule, **self.rule_args)


@final
class EdgeFD(Voting[Config]):
    """The mean of the voters' logits on the round's public samples; nothing is filtered after it."""

    status = Status("reconstruction")
    requires, evaluated, reply_kinds = Requirements(public=True, single_replies=True), "received", (PublicLogits,)

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Average the logits [U, N, C] sample by sample over its voters: log-probabilities [M, C] of those with any."""
        logprobs, mask = stack([PublicLogits.need(reply.content) for reply in replies], self.round_index)
        teacher, voted = named(self.config.rule, **self.config.rule_args)(logprobs, mask)
        if not bool(voted.any()):
            log(WARNING, "round %s: no public sample has a vote, so clients receive nothing", round)
        self.log_votes(logprobs, mask, teacher, voted)
        return [PublicLogits(self.round_index[voted], teacher[voted]), *self.ballots(replies, knowledge)]
