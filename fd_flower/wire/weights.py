"""Kinds of knowledge about a model: its weights, how they have changed, and how sure a client is of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.lowrank import fits
from fd_flower.wire.payload import Bounds, Payload
from fd_flower.wire.summable import Clippable, Summable

RUNNING = ("running_mean", "running_var")
"""Ends of the keys of batch normalization's statistics, which are no parameters."""


def learning(values: Mapping[str, Tensor]) -> list[str]:
    """Return the keys of a state dict's numbers that learn, sorted: a checkpoint has another order of keys."""
    return [key for key in sorted(values) if values[key].is_floating_point() and not key.endswith(RUNNING)]


@dataclass(frozen=True, eq=False)
class Update(Payload):
    """What leads from one state of a model to another (``fd_flower.wire.lowrank``).

    Attributes
    ----------
    values : Mapping[str, Tensor]
        By plain keys: a plain difference, or as [k, 1 + m + n] singular values and vectors.
    model : str
        The architecture; it is in the record's name, ``update.<model>``.
    """

    kind: ClassVar[str] = "update"
    named_by: ClassVar[str] = "model"
    values: Mapping[str, Tensor]
    model: str = ""

    def check(self, bounds: Bounds) -> None:
        """Refuse values that are not finite, and keys, shapes or types that no update of the server's model has."""
        super().check(bounds)
        _check_state(self, bounds, self._check_shape)

    def _check_shape(self, key: str, tensor: Tensor, own: Tensor) -> None:
        shape = list(own.shape)
        if not (fits(tensor, shape) if own.is_floating_point() else tensor.shape == own.shape):
            raise InvalidInputError(
                f"{self.name} has '{key}' of shape {list(tensor.shape)}; expected an update of {shape}"
            )


@dataclass(frozen=True, eq=False)
class Holders(Payload):
    """Which clients hold the shared model from before the last update; it stays on the server.

    Attributes
    ----------
    rounds : Mapping[str, Tensor]
        Client id -> the round [] int64 whose model it is.
    """

    kind: ClassVar[str] = "holders"
    rounds: Mapping[str, Tensor]

    def check(self, bounds: Bounds) -> None:
        """Refuse anything but rounds."""
        for client, round in self.rounds.items():
            self._shape(client, round)
            self._integers(client, round)


@dataclass(frozen=True, eq=False)
class Averaged(Summable):
    """Numbers of a network by their keys, of which a sum over clients stands for the mean.

    Attributes
    ----------
    values : Mapping[str, Tensor]
        By plain keys.
    model : str
        The architecture, where there are several; it is in the record's name.
    """

    named_by: ClassVar[str] = "model"
    values: Mapping[str, Tensor]
    model: str = ""

    def summand(self, share: float) -> Tensor:
        """Return the numbers times the client's share, in the keys' order."""
        return torch.cat([self.values[key].double().flatten() * share for key in sorted(self.values)])

    def summed(self, total: Tensor, share: float, clients: int) -> Self:
        """Return the mean by examples, in these types; whole numbers (batches seen) are rounded."""
        keys = sorted(self.values)
        parts = (total / share).split([self.values[key].numel() for key in keys])
        mean = {
            key: (part if self.values[key].is_floating_point() else part.round()).to(self.values[key].dtype)
            for key, part in zip(keys, parts, strict=True)
        }
        return type(self)({key: mean[key].view(t.shape) for key, t in self.values.items()}, self.model)

    def whole_numbers(self) -> Tensor:
        """Return the whole numbers (batches seen), in the keys' order."""
        found = [t.flatten().long() for key in sorted(self.values) if not (t := self.values[key]).is_floating_point()]
        return torch.cat([*found, torch.empty(0, dtype=torch.int64)])

    def with_whole_numbers(self, values: Tensor) -> Self:
        """Return these numbers with other whole ones."""
        keys = [key for key in sorted(self.values) if not self.values[key].is_floating_point()]
        parts = values.split([self.values[key].numel() for key in keys])
        new = {k: part.to(self.values[k].dtype).view(self.values[k].shape) for k, part in zip(keys, parts, strict=True)}
        return type(self)({**self.values, **new}, self.model)


@dataclass(frozen=True, eq=False)
class Keyed(Averaged, Clippable):
    """Numbers of a model by their keys, of which a client's share in a sum can be bounded."""

    def difference(self, start: Self) -> Tensor:
        """Return how far training has moved the numbers, in the keys' order, without whole numbers (batches seen)."""
        keys = [key for key in sorted(start.values) if start.values[key].is_floating_point()]
        moved = [(self.values[key].double() - start.values[key].double()).flatten() for key in keys]
        return torch.cat([*moved, torch.empty(0, dtype=torch.float64)])

    def moved(self, total: Tensor, clients: int) -> Self:
        """Return these numbers moved by the mean difference; whole numbers stay."""
        keys = [key for key in sorted(self.values) if self.values[key].is_floating_point()]
        parts = (total / clients).split([self.values[key].numel() for key in keys])
        new = {
            key: (self.values[key].double() + part.view(self.values[key].shape)).to(self.values[key].dtype)
            for key, part in zip(keys, parts, strict=True)
        }
        return type(self)({**self.values, **new}, self.model)


@dataclass(frozen=True, eq=False)
class Weights(Keyed):
    """A model's state dict, by plain keys.

    Attributes
    ----------
    values : Mapping[str, Tensor]
        The state dict.
    model : str
        The architecture, where there are several; it is in the record's name, ``arrays.<model>``.
    """

    kind: ClassVar[str] = "arrays"

    def tensors(self) -> dict[str, Tensor]:
        """Return the state dict."""
        return dict(self.values)

    @classmethod
    def of(cls, name: str, flat: Mapping[str, Tensor]) -> Self:
        """Build from a record's name and its tensors."""
        return cls(dict(flat), name.partition(".")[2])

    def check(self, bounds: Bounds) -> None:
        """Refuse values that are not finite, and keys, shapes or types that differ from the server's own."""
        super().check(bounds)
        _check_state(self, bounds, lambda key, tensor, own: self._shape(key, tensor, *own.shape))

    @classmethod
    def blank(cls, bounds: Bounds) -> Self:
        """Return the server's own weights."""
        if len(bounds.weights) != 1:
            raise InvalidInputError(
                f"weights of {len(bounds.weights)} architectures do not add up; privacy.sum needs one model for all"
            )
        model, values = next(iter(bounds.weights.items()))
        return cls(values, model)


@dataclass(frozen=True, eq=False)
class Correction(Keyed):
    """How a model's gradients are corrected, or what clients send for that: a number for each one that learns.

    Attributes
    ----------
    values : Mapping[str, Tensor]
        By the keys of ``learning`` of the ``Weights`` next to it, in their shapes and types.
    model : str
        The architecture, where there are several; it is in the record's name, ``correction.<model>``.
    """

    kind: ClassVar[str] = "correction"

    @classmethod
    def zeros(cls, weights: Weights) -> Self:
        """Return the one that corrects nothing."""
        values = weights.values
        return cls({key: torch.zeros_like(values[key]) for key in learning(values)}, weights.model)

    def check(self, bounds: Bounds) -> None:
        """Refuse values that are not finite, and keys, shapes or types that differ from the server's model's."""
        super().check(bounds)
        known = known_weights(self, bounds)
        if known is not None:
            check_alike(self, {key: known[key] for key in learning(known)}, self._check_shape)

    def _check_shape(self, key: str, tensor: Tensor, own: Tensor) -> None:
        self._shape(key, tensor, *own.shape)

    @classmethod
    def blank(cls, bounds: Bounds) -> Self:
        """Return zeros for the server's own weights."""
        return cls.zeros(Weights.blank(bounds))


@dataclass(frozen=True, eq=False)
class Information(Payload):
    """How much a client's samples say about each number that it learned: the diagonal of the Fisher information.

    Attributes
    ----------
    values : Mapping[str, Tensor]
        By the plain keys of the parameters among the ``Weights`` next to it, in their shapes: float32, 0 or more. A
        key that is missing says nothing, as 0 does.
    model : str
        The architecture; it is in the record's name, ``information.<model>``.
    """

    kind: ClassVar[str] = "information"
    named_by: ClassVar[str] = "model"
    values: Mapping[str, Tensor]
    model: str = ""

    def check(self, bounds: Bounds) -> None:
        """Refuse what is not finite or negative, and keys and shapes that the server's model does not have."""
        super().check(bounds)
        for key, tensor in self.values.items():
            self._floats(key, tensor)
            if bool((tensor < 0).any()):
                raise InvalidInputError(
                    f"{self.name} has {float(tensor.min()):g} in '{key}'; expected squares of gradients, 0 or more"
                )
        known = known_weights(self, bounds)
        if known is None:
            return
        if odd := sorted(self.values.keys() - known.keys()):
            raise InvalidInputError(f"{self.name} has keys that the server's model has not: {', '.join(odd[:3])}, ...")
        for key, tensor in self.values.items():
            self._shape(key, tensor, *known[key].shape)


def known_weights(payload: Update | Averaged | Information, bounds: Bounds) -> Mapping[str, Tensor] | None:
    """Return the server's model of a payload's architecture, None where it has none; refuse a client's of another."""
    known = bounds.weights.get(payload.model)
    if known is None:
        if bounds.weights:
            raise InvalidInputError(
                f"{payload.name} is of no architecture here; known: {', '.join(map(repr, bounds.weights))}"
            )
        return None
    if bounds.client is not None and len(bounds.weights) > 1 and payload.model != bounds.client.model:
        raise InvalidInputError(f"{payload.name} is of another architecture than the client's, '{bounds.client.model}'")
    return known


def _check_state(payload: Update | Weights, bounds: Bounds, check_shape: Callable[[str, Tensor, Tensor], None]) -> None:
    """Refuse values by other keys or of other types than those of the server's model of this architecture.

    ``check_shape`` takes a key, the value and the server's own tensor, and refuses a shape.
    """
    known = known_weights(payload, bounds)
    if known is not None:
        check_alike(payload, known, check_shape)


def check_alike(
    payload: Update | Averaged, known: Mapping[str, Tensor], check_shape: Callable[[str, Tensor, Tensor], None]
) -> None:
    """Refuse values by other keys or of other types than those that the server has."""
    if payload.values.keys() != known.keys():
        odd = sorted(payload.values.keys() ^ known.keys())
        raise InvalidInputError(f"{payload.name} has other keys than the server's: {', '.join(odd[:3])}, ...")
    for key, tensor in payload.values.items():
        check_shape(key, tensor, known[key])
        if tensor.dtype is not known[key].dtype:
            raise InvalidInputError(f"{payload.name} has '{key}' of {tensor.dtype}; expected {known[key].dtype}")


@dataclass(frozen=True, eq=False)
class ServerModel(Payload):
    """The weights of a model that the server has for itself, next to what it averages; it never travels.

    Attributes
    ----------
    values : Mapping[str, Tensor]
        Its state dict.
    """

    kind: ClassVar[str] = "server-model"
    values: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Emulator(Payload):
    """A model with fewer blocks than the server's, in which clients tune some.

    Attributes
    ----------
    values : Mapping[str, Tensor]
        Its state dict.
    """

    kind: ClassVar[str] = "emulator"
    values: Mapping[str, Tensor]
