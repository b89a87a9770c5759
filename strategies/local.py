"""Local training: every client for itself, nothing is exchanged; the baseline of every comparison."""

from collections.abc import Sequence
from typing import final

from fd_flower.server import Requirements, Status, Strategy
from fd_flower.wire import Knowledge, Payload
from fd_flower.wire.replies import Reply


@final
class Local(Strategy):
    """Clients train alone; the server only measures."""

    status = Status("baseline")
    requires = Requirements(tasks=("classification", "retrieval"))

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        """Learn nothing."""
        return []
