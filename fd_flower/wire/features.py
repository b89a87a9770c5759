"""Knowledge about features: one entangled representation of a client's samples, and a linear head on features."""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.payload import Bounds, Payload
from fd_flower.wire.summable import Summable


@dataclass(frozen=True, eq=False)
class Representation(Payload):
    """A weighted mean of features, and the same mean of their labels.

    Attributes
    ----------
    values : Tensor
        [F] float32: the mean of features.
    label : Tensor
        [C] float32: the weight of each class in it; they add up to 1.
    """

    kind: ClassVar[str] = "representation"
    values: Tensor
    label: Tensor

    def check(self, bounds: Bounds) -> None:
        """Refuse another number of classes or features, values that are not finite, and a label that is no mixture."""
        self._shape("values", self.values, bounds.features)
        self._shape("label", self.label, bounds.classes)
        self._floats("values", self.values)
        self._floats("label", self.label)
        super().check(bounds)
        total = float(self.label.double().sum())
        if bool((self.label < 0).any()) or abs(total - 1) > 1e-3:
            raise InvalidInputError(
                f"{self.name} has a 'label' with the sum {total:g}; expected weights, none below 0, of sum 1"
            )


@dataclass(frozen=True, eq=False)
class Head(Payload):
    """A linear layer from features to logits.

    Attributes
    ----------
    weight : Tensor
        [C, F] float32.
    bias : Tensor | None
        [C] float32; None for a head without.
    """

    kind: ClassVar[str] = "head"
    weight: Tensor
    bias: Tensor | None = None

    def check(self, bounds: Bounds) -> None:
        """Refuse another number of classes or features, and values that are not finite."""
        self._shape("weight", self.weight, bounds.classes, bounds.features)
        self._floats("weight", self.weight)
        if self.bias is not None:
            self._shape("bias", self.bias, len(self.weight))
            self._floats("bias", self.bias)
        super().check(bounds)


@dataclass(frozen=True, eq=False)
class ClassVectors(Summable):
    """A mean vector of each class, and what each counts.

    Attributes
    ----------
    values : Tensor
        [C, D] float32; zeros where nothing is counted.
    counts : Tensor
        [C] int64.
    """

    values: Tensor
    counts: Tensor

    def summand(self, share: float) -> Tensor:
        """Return each class's sum of vectors, then the counts."""
        counts = self.counts.double()
        return torch.cat([(self.values.double() * counts.unsqueeze(1)).flatten(), counts])

    def summed(self, total: Tensor, share: float, clients: int) -> Self:
        """Return the mean vector of all that is counted of a class."""
        sums, counts = total.split([self.values.numel(), self.counts.numel()])
        counts = counts.round()
        mean = sums.view(self.values.shape) / counts.clamp_min(1.0).unsqueeze(1)
        return type(self)(mean.to(self.values.dtype), counts.long())

    def _check(self, bounds: Bounds, size: int | None, below: int | None = None) -> None:
        """Refuse another number of classes or another size D, values that are not finite and counts out of range."""
        self._shape("counts", self.counts, bounds.classes)
        self._shape("values", self.values, len(self.counts), size)
        self._floats("values", self.values)
        self._integers("counts", self.counts, below)
        super().check(bounds)

    @classmethod
    def _zeros(cls, bounds: Bounds, size: int | None) -> Self:
        """Return vectors of this size D that count nothing."""
        classes = bounds.classes or 0
        return cls(torch.zeros(classes, size or 0), torch.zeros(classes, dtype=torch.int64))


@dataclass(frozen=True, eq=False)
class Prototypes(ClassVectors):
    """Mean features of each class, and how many samples they are the mean of.

    Attributes
    ----------
    values : Tensor
        [C, F] float32: mean feature of a class; zeros where there is no sample.
    counts : Tensor
        [C] int64: samples of each class.
    """

    kind: ClassVar[str] = "prototypes"

    def check(self, bounds: Bounds) -> None:
        """Refuse another number of classes or features, values that are not finite and negative counts."""
        self._check(bounds, bounds.features)
        self._counts("counts", self.counts, bounds)

    @classmethod
    def blank(cls, bounds: Bounds) -> Self:
        """Return prototypes of no sample."""
        return cls._zeros(bounds, bounds.features)


@dataclass(frozen=True, eq=False)
class Guides(Payload):
    """A vector for each class, towards which clients pull their logits or features.

    Attributes
    ----------
    values : Tensor
        [C, D] float32; D is the number of logits or of features.
    """

    kind: ClassVar[str] = "guides"
    values: Tensor

    def check(self, bounds: Bounds) -> None:
        """Refuse another number of classes, and values that are not finite."""
        self._shape("values", self.values, bounds.classes, bounds.guide)
        self._floats("values", self.values)
        super().check(bounds)


@dataclass(frozen=True, eq=False)
class GuideGradients(ClassVectors):
    """The gradient of a loss on held-out samples with respect to the guide of each class.

    Attributes
    ----------
    values : Tensor
        [C, D] float32; zeros for a class whose guide made no difference.
    counts : Tensor
        [C] int64: how many clients a gradient is the mean of, 0 or 1 in a client's reply.
    """

    kind: ClassVar[str] = "guide-gradients"

    def check(self, bounds: Bounds) -> None:
        """Refuse another shape than the guides', values that are not finite, and a client that counts twice."""
        self._check(bounds, bounds.guide, None if bounds.client is None else 2)

    @classmethod
    def blank(cls, bounds: Bounds) -> Self:
        """Return gradients of no client."""
        return cls._zeros(bounds, bounds.guide)
