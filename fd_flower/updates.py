"""Kinds of knowledge about how a model has changed, and who knows it as it was before."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fd_flower.errors import WrongInput
from fd_flower.lowrank import fits
from fd_flower.payload import Bounds, Payload


@dataclass(frozen=True, eq=False)
class Update(Payload):
    """What leads from one state of a model to another (``fd_flower.lowrank``).

    Attributes
    ----------
    values : Mapping[str, Tensor]
        By plain keys: a difference as it is, or as [k, 1 + m + n] singular values and vectors.
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
        known = bounds.weights.get(self.model)
        if known is None:
            if bounds.weights:
                raise WrongInput(
                    f"{self.name} is of no architecture here; known: {', '.join(map(repr, bounds.weights))}"
                )
            return
        if self.values.keys() != known.keys():
            odd = sorted(self.values.keys() ^ known.keys())
            raise WrongInput(f"{self.name} has other keys than the server's model: {', '.join(odd[:3])}, ...")
        for key, tensor in self.values.items():
            shape = list(known[key].shape)
            if not fits(tensor, shape):
                raise WrongInput(
                    f"{self.name} has '{key}' of shape {list(tensor.shape)}; expected an update of {shape}"
                )
            if tensor.dtype is not known[key].dtype:
                raise WrongInput(f"{self.name} has '{key}' of {tensor.dtype}; expected {known[key].dtype}")


@dataclass(frozen=True, eq=False)
class Holders(Payload):
    """Which clients know the shared model as it was before the last update; the server keeps it to itself.

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
