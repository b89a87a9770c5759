"""Options of the retrieval task (section ``retrieval``)."""

from dataclasses import dataclass
from typing import Self

from fd_flower.config import Settings
from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.schema import need

TRAINABLE = ("head", "lora", "last_layer", "all")
POOLS = ("model", "mean", "cls", "mean_all")


@dataclass(frozen=True)
class Config:
    """What a retriever is, and which questions and documents it is measured on (section ``retrieval``)."""

    folds: int = 3
    """Questions without training judgments: in this many parts, of which `run.seed` says which one tests."""
    unseen: str | None = None
    """A collection that no client holds, to measure retrievers on."""
    trainable: str = "head"
    """What of a retriever learns: `head` (a residual linear map), `lora`, `last_layer` or `all`."""
    pool: str = "model"
    """How a retriever pools tokens: `model` (as it says), `mean`, `cls`, or `mean_all` (padding, too)."""
    tau: float = 0.05
    """Temperature of a retriever's similarities in its loss."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        need(self.folds >= 2, "retrieval.folds", self.folds, "at least 2")
        need(self.tau > 0, "retrieval.tau", self.tau, "a number above 0")
        for key, known in (("trainable", TRAINABLE), ("pool", POOLS)):
            if getattr(self, key) not in known:
                raise InvalidInputError(
                    f"retrieval.{key} is '{getattr(self, key)}'{nearest(getattr(self, key), known)}"
                )

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return a run's section."""
        return settings.kinds.get("retrieval") or cls()
