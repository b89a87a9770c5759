"""Kinds of knowledge about single samples: a client's own, and synthetic ones."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.payload import Bounds, Payload, renormalized


@dataclass(frozen=True, eq=False)
class SampleKnowledge(Payload):
    """What is known of a client's own samples, one by one: up features, labels and predictions, down predictions.

    Attributes
    ----------
    id : Tensor
        [M] int64, rising: the samples' places among the client's training samples, the same in every round.
    cut : Tensor
        [] int64: the blocks of the model that made the features, or that the predictions are to teach.
    features : Tensor | None
        [M, ...] float32 or float16: what comes out of these blocks.
    labels : Tensor | None
        [M] int16: true classes.
    logits : Tensor | None
        [M, C] float32: log-probabilities at temperature 1.
    client : str
        Whose, where there are several.
    """

    kind: ClassVar[str] = "sample-knowledge"
    named_by: ClassVar[str] = "client"
    id: Tensor
    cut: Tensor
    features: Tensor | None = None
    labels: Tensor | None = None
    logits: Tensor | None = None
    client: str = ""

    def check(self, bounds: Bounds) -> None:
        """Refuse another number of classes or rows, samples twice, and values that are not finite."""
        self._integers("id", self.id, None if bounds.client is None else bounds.client.examples)
        self._shape("id", self.id, None)
        if bool((self.id.diff() <= 0).any()):
            raise InvalidInputError(f"{self.name} has 'id' out of order; expected each sample once, in rising order")
        self._shape("cut", self.cut)
        self._integers("cut", self.cut)
        if self.features is not None:
            if self.features.shape[:1] != self.id.shape:
                raise InvalidInputError(
                    f"{self.name} has 'features' of shape {list(self.features.shape)}; expected {len(self.id)} rows"
                )
            self._floats("features", self.features, torch.float32, torch.float16)
        if self.labels is not None:
            self._shape("labels", self.labels, len(self.id))
            self._integers("labels", self.labels, bounds.classes, torch.int16)
            if bounds.classes is not None:
                self._counts("labels", self.labels.long().bincount(minlength=bounds.classes), bounds)
        if self.logits is not None:
            self._shape("logits", self.logits, len(self.id), bounds.classes)
            self._floats("logits", self.logits)
        super().check(bounds)

    def normalized(self) -> Self:
        """Return what is surely log-probabilities: rows that are not become them by softmax."""
        if self.logits is None or (logits := renormalized(self.logits)) is self.logits:
            return self
        return replace(self, logits=logits)


@dataclass(frozen=True, eq=False)
class SyntheticSet(Payload):
    """Labeled inputs that were made, not taken.

    Attributes
    ----------
    x : Tensor
        [N, ...] float32, as a model takes them.
    labels : Tensor
        [N] int64: their classes.
    """

    kind: ClassVar[str] = "synthetic-set"
    x: Tensor
    labels: Tensor

    def check(self, bounds: Bounds) -> None:
        """Refuse inputs without a label, classes out of range and values that are not finite."""
        self._shape("labels", self.labels, None)
        self._integers("labels", self.labels, bounds.classes)
        self._floats("x", self.x)
        if self.x.shape[:1] != self.labels.shape:
            raise InvalidInputError(
                f"{self.name} has 'x' of shape {list(self.x.shape)}; expected {len(self.labels)} rows"
            )
        super().check(bounds)


@dataclass(frozen=True, eq=False)
class PixelStatistics(Payload):
    """Mean and standard deviation of a client's pixels, class by class and channel by channel.

    Attributes
    ----------
    mean : Tensor
        [C, channels] float32; zeros for a class without an image.
    std : Tensor
        [C, channels] float32, not negative.
    held : Tensor
        [C] bool: the classes of which the client has images.
    """

    kind: ClassVar[str] = "pixel-statistics"
    mean: Tensor
    std: Tensor
    held: Tensor

    def check(self, bounds: Bounds) -> None:
        """Refuse another number of classes, values that are not finite and negative deviations."""
        self._shape("held", self.held, bounds.classes)
        self._dtype("held", self.held, torch.bool)
        self._counts("held", self.held, bounds)
        self._shape("mean", self.mean, len(self.held), None)
        self._shape("std", self.std, *self.mean.shape)
        self._floats("mean", self.mean)
        self._floats("std", self.std)
        super().check(bounds)
        if bool((self.std < 0).any()):
            raise InvalidInputError(f"{self.name} has standard deviations below 0")
