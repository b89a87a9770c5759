"""Kinds of knowledge about a generator: its weights, the labels that clients have seen, its optimizer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from fd_flower.wire.payload import Bounds, Payload
from fd_flower.wire.weights import Averaged, check_alike


@dataclass(frozen=True, eq=False)
class Generator(Payload):
    """A generator of features by class.

    Attributes
    ----------
    values : Mapping[str, Tensor]
        Its state dict, by plain keys.
    trained : Tensor
        [C] bool: for which classes it has been trained.
    """

    kind: ClassVar[str] = "feature-generator"
    values: Mapping[str, Tensor]
    trained: Tensor

    def check(self, bounds: Bounds) -> None:
        """Refuse another number of classes and values that are not finite."""
        super().check(bounds)
        self._shape("trained", self.trained, bounds.classes)
        self._dtype("trained", self.trained, torch.bool)


@dataclass(frozen=True, eq=False)
class GeneratorWeights(Averaged):
    """The state dict of a generator that clients train, by plain keys: the server takes the mean."""

    kind: ClassVar[str] = "generator"

    def check(self, bounds: Bounds) -> None:
        """Refuse values that are not finite, and other keys, shapes or types than the server's generator has."""
        super().check(bounds)
        if bounds.generator is not None:
            check_alike(self, bounds.generator, lambda key, tensor, own: self._shape(key, tensor, *own.shape))

    @classmethod
    def blank(cls, bounds: Bounds) -> Self:
        """Return the server's own generator."""
        return cls(bounds.generator or {})


@dataclass(frozen=True, eq=False)
class LabelCounts(Payload):
    """How many samples of each class a client has learned from in this round, those that it saw twice counted twice.

    Attributes
    ----------
    counts : Tensor
        [C] int64.
    """

    kind: ClassVar[str] = "label-counts"
    counts: Tensor

    def check(self, bounds: Bounds) -> None:
        """Refuse another number of classes and negative counts."""
        self._shape("counts", self.counts, bounds.classes)
        self._integers("counts", self.counts)
        self._counts("counts", self.counts, bounds, passes=True)


@dataclass(frozen=True, eq=False)
class OptimizerState(Payload):
    """What an optimizer of the server's remembers from round to round; it never travels.

    Attributes
    ----------
    values : Mapping[str, Tensor]
        ``<number of the parameter>.<what>`` -> tensor: for Adam ``exp_avg``, ``exp_avg_sq`` and ``step``.
    """

    kind: ClassVar[str] = "optimizer-state"
    values: Mapping[str, Tensor]

    @classmethod
    def of_optimizer(cls, optimizer: torch.optim.Optimizer) -> Self:
        """Return what an optimizer remembers."""
        state = optimizer.state_dict()["state"]
        return cls({f"{number}.{key}": t.detach().cpu() for number, own in state.items() for key, t in own.items()})

    def remind(self, optimizer: torch.optim.Optimizer) -> None:
        """Give it back to an optimizer of the same parameters, in the same order."""
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in self.values.items():
            number, _, key = name.partition(".")
            state.setdefault(int(number), {})[key] = tensor.clone()
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
