"""FedMD (Li and Wang 2019, arXiv 1910.03581): clients of any architecture distill their mean public logits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast, final

from fd_flower.config import LabeledConfig, Settings
from fd_flower.server import Receiving, ReceivingConfig, Requirements, Status, late_weights
from fd_flower.wire import Knowledge, Payload, Private, PublicLogits, stack
from fd_flower.wire.replies import Reply


@dataclass(frozen=True)
class Config(ReceivingConfig):
    """FedMD's options."""

    rule: str = "mean_of_logits"
    """How predictions become one: `mean_of_logits`, `mean_of_probabilities` or a robust rule (`median`, say)."""


@final
class FedMD(Receiving[Config]):
    """The mean of the clients' logits on the round's public samples."""

    status = Status("official code")
    requires, summable = Requirements(public=True, punctual=False), (PublicLogits,)
    predicts, distills_public = True, True

    @classmethod
    def requirements(cls, settings: Settings) -> Requirements:
        """Return what is needed: a sum of logits tells no other rule's result than their mean's.

        Labels are needed where clients begin with them (``client.label_epochs``).
        """
        client = cast("LabeledConfig", settings.client)
        requires = replace(
            cls.requires,
            single_replies=not cls.options(settings).plain,
            labels=client.label_passes(settings.data) > 0,
            without_labels="client.label_epochs=0",
        )
        return cls.receiving(requires, settings)

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload | Private]:
        """Average the logits [U, N, C], every client the same: log-probabilities [N, C] (algorithm 1, "aggregate").

        Late replies count by ``server.staleness``, which the paper does not have.
        """
        votes = stack([PublicLogits.need(reply.content) for reply in replies], self.round_index)
        if not self.one_teacher:
            return self.taught_each(*votes, replies, knowledge, round)
        mean, valid, kept = self.fused(*votes, replies, knowledge, round, late_weights(replies))
        self.log_votes(*votes, mean, valid)
        taught, cached = self.with_cached(PublicLogits(self.round_index[valid], mean[valid]), knowledge, round)
        return [taught, *cached, *kept]
