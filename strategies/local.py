"""Local training: every client for itself, nothing is exchanged; the baseline of every comparison."""

from collections.abc import Sequence
from typing import final

from fd_flower.methods import Needs
from fd_flower.strategy import Reply, Strategy
from fd_flower.wire import Knowledge, Payload


@final
class Local(Strategy):
    """Clients train alone; the server only measures."""

    needs = Needs(tasks=("classification", "retrieval"))

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        """Learn nothing."""
        return []


Method = Local
