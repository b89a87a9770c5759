"""A record as one array of compressed bytes."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load, save
from torch import Tensor

from fd_flower.core.errors import InvalidInputError

ZSTD = "zstd"
"""Key of the one array."""

LEVEL = 9

RATIO, LEAST = 64, 2**20
"""How many times as many bytes may come out as went in, and how many in any case: a server's memory is not filled."""


def packed(data: bytes) -> bytes:
    """Return bytes compressed."""
    return bytes(pa.Codec("zstd", compression_level=LEVEL).compress(data, asbytes=True))


def unpacked(data: bytes, size: int) -> bytes:
    """Return the ``size`` bytes that ``packed`` was given; InvalidInputError for others."""
    try:
        return bytes(pa.Codec("zstd").decompress(data, decompressed_size=size, asbytes=True))
    except Exception as error:  # what a stranger's bytes make a library raise has no end
        raise InvalidInputError(f"compressed bytes cannot be read: {error}") from None


def compressed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the arrays as one, uint8 [bytes]: their length in 8 bytes, then zstd of them as safetensors."""
    plain = save({key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()})
    whole = len(plain).to_bytes(8, "little") + packed(plain)
    return {ZSTD: torch.from_numpy(np.frombuffer(whole, dtype=np.uint8).copy())}


def decompressed(whole: Tensor) -> dict[str, Tensor]:
    """Return the arrays of what ``compressed`` made.

    Raises
    ------
    InvalidInputError
        For what is no such array, or would be much larger than what came.
    """
    if whole.dtype is not torch.uint8 or whole.dim() != 1 or len(whole) < 8:
        raise InvalidInputError(f"compressed bytes are {whole.dtype} of shape {list(whole.shape)}; expected uint8 [n]")
    data = whole.numpy().tobytes()
    size = int.from_bytes(data[:8], "little")
    most = max(RATIO * len(data), LEAST)
    if size > most:
        raise InvalidInputError(f"{len(data)} compressed bytes would become {size}; expected at most {most}")
    try:
        return load(unpacked(data[8:], size))
    except InvalidInputError:
        raise
    except Exception as error:  # what a stranger's bytes make a library raise has no end
        raise InvalidInputError(f"compressed bytes cannot be read: {error}") from None
