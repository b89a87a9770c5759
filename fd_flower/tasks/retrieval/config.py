"""Options of the retrieval task (section ``retrieval``)."""

from dataclasses import dataclass
from typing import Self

from fd_flower.config import Settings
from fd_flower.core.schema import Options, one_of, option


@dataclass(frozen=True)
class Config(Options):
    """What a retriever is, and which questions and documents it is measured on (section ``retrieval``)."""

    section = "retrieval"

    folds: int = option(3, least=2)
    """Questions without training judgments: in this many parts, of which `run.seed` says which one tests."""
    unseen: str | None = None
    """A collection that no client holds, to measure retrievers on."""
    trainable: str = one_of("head", "lora", "last_layer", "all", default="head")
    """What of a retriever learns: `head` (a residual linear map), `lora`, `last_layer` or `all`."""
    pool: str = one_of("model", "mean", "cls", "mean_all", default="model")
    """How a retriever pools tokens: `model` (as it says), `mean`, `cls`, or `mean_all` (padding, too)."""
    tau: float = option(0.05, above=0)
    """Temperature of a retriever's similarities in its loss."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return a run's section."""
        return settings.kinds.get("retrieval") or cls()
