"""Options of methods whose clients can begin with labeled public samples."""

from dataclasses import dataclass

from fd_flower.config.client import ClientConfig
from fd_flower.config.data import DataConfig
from fd_flower.core.schema import option

LABEL_EPOCHS = 20
"""The most passes that FedMD's code makes over the labeled public samples."""
NOT_ANOTHER = ("held-out", "noise", "none")
"""Public samples that are no other labeled set's: those of the task itself, whose labels give the answer away."""


@dataclass(frozen=True)
class LabeledConfig(ClientConfig):
    """A client's learning that can begin with labeled public samples (section ``client``)."""

    label_epochs: int | None = option(None, least=0)
    """Passes over public samples with their labels in a client's first turn, before all else, in batches of
    `client.public_batch`; None: 20 where `data.public` is another set, else 0. If its classes are others, give
    `data.public_classes=added`."""

    def label_passes(self, data: DataConfig) -> int:
        """Return how many passes these are, with such data."""
        if self.label_epochs is not None:
            return self.label_epochs
        return LABEL_EPOCHS if data.public not in NOT_ANOTHER or data.adds_classes else 0
