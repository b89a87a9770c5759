"""What a codec is."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError


class Codec(ABC):
    """Makes a smaller array of an array of float32, and one like it of this.

    Attributes
    ----------
    name : str
        As ``wire.up`` and ``wire.down`` have it.
    predictions : bool
        Whether it is for rows of log-probabilities alone.
    """

    name: ClassVar[str]
    predictions: ClassVar[bool] = False

    @abstractmethod
    def encode(self, values: Tensor) -> tuple[str, Tensor]:
        """Return what else ``decode`` must know, and the smaller array of one that is not empty."""

    @abstractmethod
    def decode(self, about: str, array: Tensor) -> Tensor:
        """Return an array of float32; InvalidInputError for what ``encode`` cannot have made."""


def as_bytes(tensor: Tensor) -> Tensor:
    """Return a tensor's bytes, uint8 [n]."""
    return tensor.contiguous().flatten().view(torch.uint8)


def need_bytes(array: Tensor, dimensions: int) -> None:
    """Raise InvalidInputError for anything but bytes in so many dimensions."""
    if array.dtype is not torch.uint8 or array.dim() != dimensions:
        raise InvalidInputError(
            f"an encoded array is {array.dtype} of shape {list(array.shape)}; expected uint8 in {dimensions} dimensions"
        )
