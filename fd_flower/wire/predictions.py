"""Kinds of knowledge about public samples: which, what is predicted on them, and by whom it is trusted."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble.simplex import nearest_probabilities
from fd_flower.objectives.base import floored
from fd_flower.wire.payload import Bounds, Payload, renormalized
from fd_flower.wire.summable import Clippable

LEAST = 1e-6
"""Least probability of a class in a noisy mean, of which losses take the logarithm."""


@dataclass(frozen=True, eq=False)
class _Public(Payload):
    """Predictions or features on some of a round's public samples."""

    index: Tensor

    def check(self, bounds: Bounds) -> None:
        """Refuse samples that are not the round's, in another order or twice, and values that are not finite."""
        self._integers("index", self.index)
        self._shape("index", self.index, None)
        if bool((self.index.diff() <= 0).any()):
            raise InvalidInputError(f"{self.name} has 'index' out of order; expected each sample once, in rising order")
        if bounds.index is not None and not bool(torch.isin(self.index, bounds.index).all()):
            raise InvalidInputError(f"{self.name} is about other public samples than the round's")
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
class PublicLogits(_Public, Clippable):
    """Log-probabilities on public samples; a sample without a prediction is not sent.

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
    predictions: ClassVar[bool] = True
    values: Tensor
    client: str = ""

    def check(self, bounds: Bounds) -> None:
        """Refuse another number of classes or rows, unknown samples and values that are not finite."""
        self._floats("values", self.values)
        super().check(bounds)
        self._shape("values", self.values, len(self.index), bounds.classes)

    def entries(self) -> dict[str, Tensor]:
        """Return the log-probabilities, but for those of classes that are ruled out (-inf)."""
        return {"values": self.values.masked_fill(self.values == -torch.inf, 0.0)}

    def normalized(self) -> Self:
        """Return what is surely log-probabilities: rows that are not become them by softmax."""
        values = renormalized(self.values)
        return self if values is self.values else replace(self, values=values)

    @classmethod
    def blank(cls, bounds: Bounds) -> Self:
        """Return a row for each of the round's samples."""
        index = torch.empty(0, dtype=torch.int64) if bounds.index is None else bounds.index
        return cls(index, torch.zeros(len(index), bounds.classes or 0))

    def summand(self, share: float) -> Tensor:
        """Return the log-probabilities as ``mean_of_logits`` takes them; every client counts the same."""
        return floored(self.values.double()).flatten()

    def summed(self, total: Tensor, share: float, clients: int) -> Self:
        """Return the mean of log-probabilities, normalized."""
        mean = (total / clients).view(self.values.shape).log_softmax(1)
        return type(self)(self.index, mean.to(self.values.dtype))

    def difference(self, start: Self) -> Tensor:
        """Return the probabilities less those of a uniform prediction, [N * C]."""
        return (self.values.double().exp() - 1 / self.values.shape[1]).flatten()

    def moved(self, total: Tensor, clients: int) -> Self:
        """Return the nearest probabilities to the noisy mean, none of them less than ``LEAST``."""
        shape = self.values.shape
        mean = nearest_probabilities((total / clients).view(shape) + 1 / shape[1]).clamp_min(LEAST)
        return type(self)(self.index, (mean / mean.sum(1, keepdim=True)).log().to(self.values.dtype))


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
        self._integers("classes", self.classes)
        if bounds.classes is not None and int(self.classes) != bounds.classes:
            raise InvalidInputError(f"{self.name} is about {int(self.classes)} classes; expected {bounds.classes}")
        self._shape("labels", self.labels, len(self.index))
        self._integers("labels", self.labels, int(self.classes), torch.int16)


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
        self._dtype("mask", self.mask, torch.bool)


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
        [M, F] float32: embeddings; None where they are not used.
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
        self._floats("values", self.values)
        super().check(bounds)
        self._shape("values", self.values, len(self.index), None, bounds.classes)
        if self.features is not None:
            self._shape("features", self.features, len(self.index), bounds.features)
            self._floats("features", self.features)
        if self.round is not None:
            self._shape("round", self.round)
            self._integers("round", self.round)

    def normalized(self) -> Self:
        """Return what is surely log-probabilities: rows that are not become them by softmax."""
        values = renormalized(self.values)
        return self if values is self.values else replace(self, values=values)


def stack(payloads: Sequence[PublicLogits | PublicLabels], index: Tensor) -> tuple[Tensor, Tensor]:
    """Align what several clients send with the samples ``index`` [N].

    Returns
    -------
    tuple[Tensor, Tensor]
        Log-probabilities [U, N, C] (zeros where a client sends none) and a mask [U, N]: True where it sends one.
    """
    values = [p.values for p in payloads]
    logprobs = torch.zeros(len(payloads), len(index), values[0].shape[1])
    mask = torch.zeros(len(payloads), len(index), dtype=torch.bool)
    for voter, (payload, rows) in enumerate(zip(payloads, values, strict=True)):
        places = torch.searchsorted(index, payload.index)
        logprobs[voter, places] = rows
        mask[voter, places] = True
    return logprobs, mask


@dataclass(frozen=True, eq=False)
class ClassLogits(Clippable):
    """Sums of logits by true class, and how many they are sums of.

    Attributes
    ----------
    sums : Tensor
        [C, C] float64: row c is the sum of the logits of samples of class c.
    counts : Tensor
        [C] float64: how many logits are in each row.
    members : Tensor | None
        uint8 text, JSON: client id -> round of its reply that is in these sums, or [round, weight] for one that counts
        otherwise than once. Sent to clients of a secure sum alone; other clients get ``round`` and ``weight``.
    round : Tensor | None
        [] int64, for a client that receives the sums: the round of its own reply that is in them; None where none is.
    weight : Tensor | None
        [] float64, for such a client: how often its own reply is in them; None: once.
    """

    kind: ClassVar[str] = "class-logits"
    exact: ClassVar[bool] = True
    sums: Tensor
    counts: Tensor
    members: Tensor | None = None
    round: Tensor | None = None
    weight: Tensor | None = None

    @classmethod
    def joined(
        cls, sums: Tensor, counts: Tensor, rounds: Mapping[str, int], weights: Mapping[str, float] | None = None
    ) -> Self:
        """Return sums that say whose replies, of which round and with which weight, are in them."""
        counted = {client: weight for client, weight in (weights or {}).items() if weight != 1.0}
        members = {client: [round, counted[client]] if client in counted else round for client, round in rounds.items()}
        text = json.dumps(members, separators=(",", ":")).encode()
        return cls(sums, counts, torch.frombuffer(bytearray(text), dtype=torch.uint8))

    @property
    def rounds(self) -> dict[str, int]:
        """Client id -> round of its reply that is in these sums."""
        return {client: of[0] if isinstance(of, list) else of for client, of in self._members.items()}

    @property
    def weights(self) -> dict[str, float]:
        """Client id -> how often its reply is in these sums, of those that are not in them once."""
        return {client: of[1] for client, of in self._members.items() if isinstance(of, list)}

    @property
    def _members(self) -> dict[str, Any]:
        return {} if self.members is None else json.loads(self.members.numpy().tobytes())

    def check(self, bounds: Bounds) -> None:
        """Refuse another number of classes, values that are not finite and negative counts."""
        self._shape("counts", self.counts, bounds.classes)
        classes = len(self.counts)
        self._shape("sums", self.sums, classes, classes)
        self._floats("counts", self.counts, torch.float64)
        self._floats("sums", self.sums, torch.float64)
        if self.round is not None:
            self._shape("round", self.round)
            self._integers("round", self.round)
        if self.weight is not None:
            self._shape("weight", self.weight)
            self._floats("weight", self.weight, torch.float64)
        super().check(bounds)
        if bool((self.counts < 0).any()):
            raise InvalidInputError(f"{self.name} has counts below 0")
        if bounds.client is not None and bool((self.counts != self.counts.round()).any()):
            raise InvalidInputError(f"{self.name} has counts that are not whole")
        if bool(self.sums[self.counts == 0].any()):
            raise InvalidInputError(f"{self.name} has sums of classes that it counts 0 of")
        self._counts("counts", self.counts, bounds, passes=True)

    def entries(self) -> dict[str, Tensor]:
        """Return the mean logits: sums grow with the samples; counts tell by being numbers."""
        return {"sums": self.sums / self.counts.where(self.counts > 0, 1.0).unsqueeze(1), "counts": self.counts * 0}

    @classmethod
    def blank(cls, bounds: Bounds) -> Self:
        """Return an empty table."""
        classes = bounds.classes or 0
        return cls(torch.zeros(classes, classes, dtype=torch.float64), torch.zeros(classes, dtype=torch.float64))

    def summand(self, share: float) -> Tensor:
        """Return sums and counts unchanged."""
        return torch.cat([self.sums.double().flatten(), self.counts.double()])

    def summed(self, total: Tensor, share: float, clients: int) -> Self:
        """Return the table of all; counts are whole again."""
        sums, counts = total.split([self.sums.numel(), self.counts.numel()])
        return type(self)(sums.view(self.sums.shape), counts.round())

    def difference(self, start: Self) -> Tensor:
        """Return each class's mean output less a uniform one, [C * C], then 1 for each class that the client has."""
        has, share = (self.counts > 0).double(), 1 / len(self.counts)
        rows = self.sums.double() / self.counts.double().where(self.counts > 0, 1.0).unsqueeze(1)
        return torch.cat([((rows - share) * has.unsqueeze(1)).flatten(), has])

    def moved(self, total: Tensor, clients: int) -> Self:
        """Return how many clients have each class, rounded, and that many times the nearest probabilities."""
        sums, has = total.split([self.sums.numel(), self.counts.numel()])
        counts = has.round().clamp(0, clients)
        mean = sums.view(self.sums.shape) / counts.where(counts > 0, 1.0).unsqueeze(1) + 1 / len(counts)
        return type(self)(nearest_probabilities(mean) * counts.unsqueeze(1), counts)
