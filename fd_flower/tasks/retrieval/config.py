"""Options of the retrieval task (section ``retrieval``)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from fd_flower.config import Settings
from fd_flower.core.schema import Options, one_of, option
from fd_flower.tasks.retrieval.beir import holds


@dataclass(frozen=True)
class Config(Options):
    """What a retriever is, and which questions and documents it is measured on (section ``retrieval``)."""

    section = "retrieval"
    holds: ClassVar[Callable[[str], bool]] = staticmethod(holds)
    """Whether a source is of this kind."""
    usual: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "data": {"partition": "iid"},
        "model": {"name": "hashed"},
        "client": {"trainable": "head"},
    }
    """Defaults of other sections where it is."""

    folds: int = option(3, least=2)
    """Questions without training judgments: in this many parts, of which `run.seed` says which one tests."""
    unseen: str | None = None
    """A collection that no client holds, to measure retrievers on."""
    pool: str = one_of("model", "mean", "cls", "mean_all", default="model")
    """How a retriever pools tokens: `model` (as it says), `mean`, `cls`, or `mean_all` (padding, too)."""
    tau: float = option(0.05, above=0)
    """Temperature of a retriever's similarities in its loss."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return a run's section."""
        return settings.kinds.get("retrieval") or cls()
