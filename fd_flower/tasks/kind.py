"""What is measured of a model: on a client's own parts, and in a simulation on everybody's."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor
from torch.nn import Module

from fd_flower.config import Settings
from fd_flower.core.samples import Samples
from fd_flower.training import predict

if TYPE_CHECKING:
    from fd_flower.tasks.world import World

Predictor = Module | Callable[[Samples], Tensor]
"""A model, or a function from samples to log-probabilities [N, C]."""


class Kind(Protocol):
    """What a task asks of models, as far as the core has to know: who takes part with what, and what is measured.

    Attributes
    ----------
    name : str
        ``classification`` or ``retrieval``; a method's ``needs.tasks`` names those that it can learn.
    """

    name: str

    def capabilities(self, world: "World", client: str, model: str) -> dict[str, Any]:
        """Return ``features``, ``classes``, ``counts`` and ``examples`` of a client, for the handshake."""

    def figures(
        self, world: "World", client: str, model: Predictor, shared: Predictor | None, limit: int | None
    ) -> dict[str, float]:
        """Measure a client's model; see ``Turn.measure``. A limit of None: the server's model stands for all."""

    def judges(self, world: "World") -> bool:
        """Whether this process has anything to measure a server's model on."""

    def judged(self, world: "World", model: Module, limit: int) -> dict[str, float]:
        """Measure a server's model."""

    def options(self, settings: Settings) -> dict[str, Any]:
        """Return the options that say which data a run is about, by their names in the summary."""

    def copy(self, world: "World") -> str:
        """Return the start of a checksum of the data that is measured on; "" where there is none."""

    def references(self, world: "World") -> dict[str, dict[str, float]]:
        """Return figures, by name, that need no training and stand beside a run's own."""


def predicted(model: Predictor, samples: Samples, precision: str) -> Tensor:
    """Return log-probabilities [N, C] float32 on the CPU."""
    return predict(model, samples, precision=precision) if isinstance(model, Module) else model(samples)
