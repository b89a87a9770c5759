"""Kinds of knowledge about public samples: which, what is predicted on them, and by whom it is trusted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fd_flower.errors import WrongInput
from fd_flower.objectives.base import floored
from fd_flower.payload import Bounds, Payload
from fd_flower.summable import Summable


@dataclass(frozen=True, eq=False)
class _Public(Payload):
    """Something said about some of a round's public samples."""

    index: Tensor

    def check(self, bounds: Bounds) -> None:
        """Refuse samples that are not the round's, in another order or twice, and values that are not finite."""
        self._integers("index", self.index)
        self._shape("index", self.index, None)
        if bool((self.index.diff() <= 0).any()):
            raise WrongInput(f"{self.name} has 'index' out of order; expected each sample once, in rising order")
        if bounds.index is not None and not bool(torch.isin(self.index, bounds.index).all()):
            raise WrongInput(f"{self.name} is about other public samples than the round's")
        super().check(bounds)


@dataclass(frozen=True, eq=False)
class PublicIndex(_Public):
    """The public samples that a round is about.

    Attributes
    ----------
    index : Tensor
        [N] int64, rising.
    """

    kind: ClassVar[str] = "public-index"


@dataclass(frozen=True, eq=False)
class PublicLogits(_Public, Summable):
    """Log-probabilities on public samples; a sample on which nothing is said does not travel.

    Attributes
    ----------
    index : Tensor
        [M] int64, rising: which public samples.
    values : Tensor
        [M, C] float32: log-probabilities at temperature 1.
    client : str
        Whose, where there are several.
    """

    kind: ClassVar[str] = "public-logits"
    named_by: ClassVar[str] = "client"
    values: Tensor
    client: str = ""

    def check(self, bounds: Bounds) -> None:
        """Refuse another number of classes or rows, unknown samples and values that are not finite."""
        super().check(bounds)
        self._shape("values", self.values, len(self.index), bounds.classes)
        self._floats("values", self.values)

    @classmethod
    def blank(cls, bounds: Bounds) -> Self:
        """Return a row for each of the round's samples."""
        index = torch.empty(0, dtype=torch.int64) if bounds.index is None else bounds.index
        return cls(index, torch.zeros(len(index), bounds.classes or 0))

    def summand(self, share: float) -> Tensor:
        """Return the log-probabilities as ``mean_of_logits`` takes them; every client counts the same."""
        return floored(self.values.double()).flatten()

    def summed(self, total: Tensor, share: float, clients: int) -> Self:
        """Return the mean of log-probabilities, normalised."""
        mean = (total / clients).view(self.values.shape).log_softmax(1)
        return type(self)(self.index, mean.to(self.values.dtype))


@dataclass(frozen=True, eq=False)
class PublicLabels(_Public):
    """Predicted classes of public samples: hard labels.

    Attributes
    ----------
    index : Tensor
        [M] int64, rising: which public samples.
    labels : Tensor
        [M] int16: their classes.
    classes : Tensor
        [] int64: the number of classes C that they are out of.
    """

    kind: ClassVar[str] = "public-labels"
    labels: Tensor
    classes: Tensor

    @classmethod
    def top(cls, index: Tensor, logprobs: Tensor) -> Self:
        """Return the likeliest class of each row of predictions [M, C]."""
        return cls(index, logprobs.argmax(1).to(torch.int16), torch.tensor(logprobs.shape[1]))

    @property
    def values(self) -> Tensor:
        """[M, C] float32: log-probabilities, 0 for the class and -inf for all others."""
        return one_hot(self.labels.long(), int(self.classes)).float().log()

    def check(self, bounds: Bounds) -> None:
        """Refuse another number of classes or rows, unknown samples and classes out of range."""
        super().check(bounds)
        self._shape("classes", self.classes)
        if bounds.classes is not None and int(self.classes) != bounds.classes:
            raise WrongInput(f"{self.name} is about {int(self.classes)} classes; expected {bounds.classes}")
        self._shape("labels", self.labels, len(self.index))
        self._integers("labels", self.labels, int(self.classes))


@dataclass(frozen=True, eq=False)
class PublicVotes(Payload):
    """For which of all public samples a client trusts its own predictions.

    Attributes
    ----------
    mask : Tensor
        [N_public] bool; from the server [0]: a question for them.
    client : str
        Whose, where there are several.
    """

    kind: ClassVar[str] = "public-votes"
    named_by: ClassVar[str] = "client"
    mask: Tensor
    client: str = ""

    def check(self, bounds: Bounds) -> None:
        """Refuse another number of samples, and anything but votes."""
        self._shape("mask", self.mask, bounds.public)
        if self.mask.dtype is not torch.bool:
            raise WrongInput(f"{self.name} has 'mask' of {self.mask.dtype}; expected torch.bool")


@dataclass(frozen=True, eq=False)
class PublicHeads(_Public):
    """What every head of a model says about public samples, and their embeddings.

    Attributes
    ----------
    index : Tensor
        [M] int64, rising: which public samples.
    values : Tensor
        [M, H, C] float32: log-probabilities of the main head and the auxiliary ones, in their order.
    features : Tensor | None
        [M, F] float32: embeddings; None where nobody asks for them.
    client : str
        Whose, where there are several.
    round : Tensor | None
        [] int64: of which round, where they are kept for later ones.
    """

    kind: ClassVar[str] = "public-heads"
    named_by: ClassVar[str] = "client"
    values: Tensor
    features: Tensor | None = None
    client: str = ""
    round: Tensor | None = None

    def check(self, bounds: Bounds) -> None:
        """Refuse another number of classes, features or rows, unknown samples and values that are not finite."""
        super().check(bounds)
        self._shape("values", self.values, len(self.index), None, bounds.classes)
        self._floats("values", self.values)
        if self.features is not None:
            self._shape("features", self.features, len(self.index), bounds.features)
            self._floats("features", self.features)
        if self.round is not None:
            self._shape("round", self.round)
            self._integers("round", self.round)


def stack(said: Sequence[PublicLogits | PublicLabels], index: Tensor) -> tuple[Tensor, Tensor]:
    """Align what several clients say with the samples ``index`` [N].

    Returns
    -------
    tuple[Tensor, Tensor]
        Log-probabilities [U, N, C] (zeros where a client says nothing) and a mask [U, N]: True where it says something.
    """
    values = [p.values for p in said]
    logprobs = torch.zeros(len(said), len(index), values[0].shape[1])
    mask = torch.zeros(len(said), len(index), dtype=torch.bool)
    for voter, (payload, rows) in enumerate(zip(said, values, strict=True)):
        places = torch.searchsorted(index, payload.index)
        logprobs[voter, places] = rows
        mask[voter, places] = True
    return logprobs, mask
