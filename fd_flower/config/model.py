"""Options of the models (section ``model``)."""

from dataclasses import dataclass
from typing import Any

from fd_flower.core.schema import need


@dataclass(frozen=True)
class ModelConfig:
    """Which architecture a client has (section ``model``)."""

    name: Any = "cnn"
    """One architecture (`resnet8:0.5` for half the width), your own `package.module:Net`, a named group or a list,
    cycled over the clients."""
    features: int | None = None
    """A common feature size, by projection; None: as the architecture has it."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        need(self.features is None or self.features >= 1, "model.features", self.features, "at least 1")
