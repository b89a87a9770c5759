"""Selective-FD (Shao, Wu, Zhang 2024, arXiv 2304.01731): clients predict only what resembles their own data."""

from collections.abc import Sequence
from dataclasses import dataclass
from logging import WARNING
from typing import Any, final

from fd_flower.config import option
from fd_flower.core.flower import log
from fd_flower.ensemble import ambiguity
from fd_flower.server import CachingConfig, Requirements, Status, Voting
from fd_flower.wire import Knowledge, Payload, Private, PublicLabels, PublicLogits, stack
from fd_flower.wire.replies import Reply


@dataclass(frozen=True)
class Config(CachingConfig):
    """Selective-FD's options."""

    ambiguity: float = option(2.0, least=0, most=2)
    """Maximum L1 distance (tau) of an ensembled prediction to its one-hot class; 2 keeps all predictions."""


@final
class SelectiveFD(Voting[Config]):
    """The voters' mean prediction of the round's public samples, without the ambiguous ones."""

    status = Status("official code", reconstructed="the server's filter")
    requires, evaluated = Requirements(public=True, single_replies=True), "received"

    def expected_kinds(self, round: int) -> tuple[type[PublicLogits | PublicLabels]]:
        """Return soft or hard labels, as ``client.labels`` says."""
        client_options: Any = self.settings.client
        return (PublicLabels if client_options.labels == "hard" else PublicLogits,)

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Average the votes [U, N, C] sample by sample over its voters, and keep what is clear: [M, C]."""
        (kind,) = self.expected_kinds(round)
        logprobs, mask = stack([kind.need(reply.content) for reply in replies], self.round_index)
        teacher, voted, trust = self.fused(logprobs, mask, replies, knowledge, round)
        kept = voted & (ambiguity(teacher) <= self.config.ambiguity)
        if not bool(kept.any()):
            log(WARNING, "round %s: no public sample has a vote and is clear, so clients receive nothing", round)
        self.log_votes(logprobs, mask, teacher, kept)
        self.log_diagnostics({"ambiguous": float((voted & ~kept).sum()) / max(int(voted.sum()), 1)})
        taught, cached = self.with_cached(PublicLogits(self.round_index[kept], teacher[kept]), knowledge, round)
        return [taught, *cached, *self.ballots(replies, knowledge), *trust]
