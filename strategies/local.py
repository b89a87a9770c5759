"""Local training: clients train alone and exchange nothing; the baseline of every comparison."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast, final

from fd_flower.config import LabeledConfig, Settings
from fd_flower.server import Requirements, Status, Strategy
from fd_flower.wire import Knowledge, Payload
from fd_flower.wire.replies import Reply


@final
class Local(Strategy):
    """Clients train alone; the server only measures."""

    status = Status("baseline")
    requires = Requirements(tasks=("classification", "language", "retrieval"), punctual=False)

    @classmethod
    def requirements(cls, settings: Settings) -> Requirements:
        """Return what is needed: labeled public samples where clients begin with them (``client.label_epochs``)."""
        labels = cast("LabeledConfig", settings.client).label_passes(settings.data) > 0
        return replace(cls.requires, public=labels, labels=labels, without_labels="client.label_epochs=0")

    def aggregate(self, replies: Sequence[Reply], knowledge: Knowledge, round: int) -> Sequence[Payload]:
        """Learn nothing."""
        return []
