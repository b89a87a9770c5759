"""What a task asks of models: what a client brings to it, and how models are evaluated at it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Module

from fd_flower.config import Settings
from fd_flower.core.samples import Data, Samples
from fd_flower.tasks.metric import Metric
from fd_flower.tasks.probe import Probe
from fd_flower.training import predict

Figures = dict[str, float | list[int]]
"""What is measured of a model, by name: numbers, and counts by class."""

Predictor = Module | Callable[[Samples], Tensor]
"""A model, or a function from samples to log-probabilities [N, C]."""


@dataclass(frozen=True)
class Inference:
    """How a client predicts on its own samples, and what else could.

    Attributes
    ----------
    own : bool
        Whether among the classes of its training samples alone.
    nearest : Predictor | None
        The nearest prototype, where there are prototypes and something else predicts.
    head : Predictor | None
        The model's own head, where something else predicts.
    """

    own: bool = False
    nearest: Predictor | None = None
    head: Predictor | None = None


class View(Protocol):
    """The few things that a kind of task needs of a process's world.

    Attributes
    ----------
    settings : Settings
        The run.
    device : torch.device
        Where samples and models are.
    hosted : bool
        Whether this process can see all clients' data.
    """

    settings: Settings
    device: torch.device
    hosted: bool

    @property
    def has_data(self) -> bool:
        """Whether the task has the clients' samples."""

    @property
    def test(self) -> Samples | None:
        """The global test set."""

    @property
    def pooled(self) -> Mapping[str, Samples]:
        """All hosted clients' ``validation`` and ``test`` parts together."""

    def pool(self, limit: int) -> Mapping[str, Samples]:
        """Return what of ``pooled`` a client's model is evaluated on; a limit of 0: in the last evaluation."""

    def data(self, client: str) -> Data:
        """Return a client's samples."""

    def test_part(self, limit: int) -> Samples | None:
        """Return a class-balanced part of the test set; 0: all of it."""

    def triggered(self, limit: int) -> Samples | None:
        """Return ``test_part`` with a back door's trigger and its class; None where there is no such attack."""

    def pooled_rows(self, client: str, part: str) -> slice:
        """Return where a client's own part lies in the pooled one."""

    @property
    def public(self) -> Samples | None:
        """The public samples."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, where they are known."""

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The task's own metrics by name."""

    def probe(self, name: str) -> Probe:
        """Return what an architecture gives for one sample."""

    def module(self, name: str) -> Module:
        """Return the resident module of an architecture."""

    def architecture(self, number: int) -> str:
        """Return the architecture of the client with this number."""

    def initial(self, name: str) -> dict[str, Tensor]:
        """Return the state dict that an architecture starts from."""

    def load(self, name: str, tensors: Mapping[str, Tensor]) -> Module:
        """Point the resident module at these tensors."""


class Kind(Protocol):
    """What a task asks of models, as far as the core has to know: who takes part with what, and what is evaluated.

    Attributes
    ----------
    name : str
        ``classification``, ``language`` or ``retrieval``; a method's ``requires.tasks`` names those that it can learn.
    higher_is_better : bool
        Which way the figure ``validation`` goes; the kind's tables (``fd_flower.results.kinds``) say the same.
    takes_judges : bool
        Whether the models of some clients can stand for all where all clients' samples are predicted on
        (``server.judges``).
    """

    name: str
    higher_is_better: bool
    takes_judges: bool = True

    def capabilities(self, world: View, client: str, model: str) -> dict[str, Any]:
        """Return ``features``, ``classes``, ``counts`` and ``examples`` of a client, for the handshake."""

    def examples(self, world: View, client: str, model: str) -> int:
        """Return how much a client learns from, by which its reply is weighed: samples, or tokens of texts."""

    def figures(
        self,
        world: View,
        client: str,
        model: Predictor,
        shared: Predictor | None,
        limit: int | None,
        inference: Inference = Inference(),
    ) -> Figures:
        """Evaluate a client's model; see ``Turn.evaluate``. A limit of None: the server's model stands for all."""

    def accuracies(self, world: View, client: str, model: Predictor, limit: int | None) -> dict[str, float]:
        """Evaluate a predictor other than a client's model by ``accuracy``, ``pooled`` and ``global`` alone."""

    def judges(self, world: View) -> bool:
        """Whether this process has anything to evaluate a server's model on."""

    def judged(self, world: View, model: Module, limit: int) -> Figures:
        """Evaluate a server's model."""

    def options(self, settings: Settings) -> dict[str, Any]:
        """Return the options that say which data a run is about, by their names in the summary."""

    def copy(self, world: View) -> str:
        """Return the start of a checksum of the data that is evaluated on; "" where there is none."""

    def references(self, world: View) -> dict[str, dict[str, float]]:
        """Return reference figures, by name, that need no training."""


def predicted(model: Predictor, samples: Samples, precision: str) -> Tensor:
    """Return log-probabilities [N, C] float32 on the CPU."""
    return predict(model, samples, precision=precision) if isinstance(model, Module) else model(samples)
