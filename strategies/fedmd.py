"""FedMD (Li and Wang 2019, arXiv 1910.03581): clients of any model digest their mean logits on public samples."""

from collections.abc import Sequence
from typing import final

from fd_flower.ensemble import mean_of_logits
from fd_flower.server import Requirements, Status, Strategy
from fd_flower.wire import Knowledge, Payload, PublicLogits, stack
from fd_flower.wire.replies import Reply


@final
class FedMD(Strategy):
    """The mean of the clients' logits on the round's public samples."""

    status = Status("official code")
    requires, summable = Requirements(public=True), (PublicLogits,)
    predicts, distills_public = True, True

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        """Average the logits [U, N, C], every client the same: log-probabilities [N, C] (algorithm 1, "aggregate")."""
        votes = stack([PublicLogits.need(reply.content) for reply in replies], self.round_index)
        mean, valid = mean_of_logits(*votes)
        self.log_votes(*votes, mean, valid)
        return [PublicLogits(self.round_index[valid], mean[valid])]
