"""A codec for predictions: the most likely classes."""

import math
import re
from typing import ClassVar, final

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.codecs.base import Codec, as_bytes, need_bytes

LEAST = 1e-6
"""The least probability of all other classes together."""

LARGEST = 2**28
"""Numbers that a decoded array may have."""


@final
class TopK(Codec):
    """Each sample's k most likely classes with their probabilities; the others share what is left evenly.

    Parameters
    ----------
    k : int
        Classes a sample; with all of them, only the precision (fp16) is lost.
    """

    name: ClassVar[str] = "top_k"
    predictions: ClassVar[bool] = True

    def __init__(self, k: int) -> None:
        self.k = k

    def encode(self, values: Tensor) -> tuple[str, Tensor]:
        """Return k and the number of classes, and bytes [M, n]: classes, then their log-probabilities in fp16.

        Raises
        ------
        InvalidInputError
            For anything but rows.
        """
        if values.dim() != 2:
            raise InvalidInputError(f"top_k is for predictions [samples, classes]; got the shape {list(values.shape)}")
        rows, count = values.shape
        top = values.topk(min(self.k, count), dim=1)
        parts = (top.indices.to(_small(count)), top.values.half())
        return f"{top.values.shape[1]}of{count}", torch.cat([as_bytes(part).view(rows, -1) for part in parts], 1)

    def decode(self, about: str, array: Tensor) -> Tensor:
        """Return log-probabilities [M, C]."""
        need_bytes(array, 2)
        told = re.fullmatch(r"(\d{1,9})of(\d{1,9})", about)
        k, count = (int(told[1]), int(told[2])) if told else (0, 0)
        wide = k * _small(count).itemsize
        if not 1 <= k <= count or array.shape[1] != wide + 2 * k:
            raise InvalidInputError(f"top_k '{about[:100]}' has rows of {array.shape[1]} bytes, which does not fit")
        if len(array) * count > LARGEST:
            raise InvalidInputError(f"{len(array)} rows of {count} classes are more than {LARGEST} numbers")
        places = array[:, :wide].clone(memory_format=torch.contiguous_format).view(_small(count)).long()
        found = array[:, wide:].clone(memory_format=torch.contiguous_format).view(torch.float16).float()
        if bool((places >= count).any()) or bool((places < 0).any()):
            raise InvalidInputError(f"a class is {int(places.amax())}; there are {count}")
        rest = (1 - found.double().exp().sum(1)).clamp(min=LEAST).log() - math.log(max(count - k, 1))
        filled = rest.float().unsqueeze(1).expand(len(array), count)
        return filled.scatter(1, places, found).log_softmax(1)


def _small(count: int) -> torch.dtype:
    """Return the type that holds so many classes."""
    return torch.uint8 if count <= 256 else torch.int32
