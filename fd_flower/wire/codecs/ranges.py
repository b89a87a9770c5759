"""Few symbols in as many bits as they tell: a range coder with the counts of the message itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.extras import extra

LEVEL = 255
"""The largest count that is sent; the others are in proportion."""


def coder() -> Any:
    """Return the library that codes.

    Raises
    ------
    InvalidInputError
        Where it is not installed.
    """
    return extra("constriction", "wire.down=delta needs constriction", "codecs")


def coded(groups: Sequence[Tensor], alphabet: int) -> bytes:
    """Return groups of symbols as bytes: each group's counts, then all symbols.

    Parameters
    ----------
    groups : Sequence[Tensor]
        int64 [n_g] each, from 0 to below ``alphabet``: symbols that are alike in how often they come.
    alphabet : int
        Number of symbols A.
    """
    library = coder()
    encoder = library.stream.queue.RangeEncoder()
    tables = b""
    for symbols in groups:
        if len(symbols):
            table = _table(torch.bincount(symbols, minlength=alphabet))
            tables += table.tobytes()
            encoder.encode(symbols.numpy().astype(np.int32), _model(library, table))
    return tables + encoder.get_compressed().astype("<u4").tobytes()


def symbols_of(data: bytes, sizes: Sequence[int], alphabet: int) -> list[Tensor]:
    """Return the groups that ``coded`` was given, int64 [n_g] each.

    Parameters
    ----------
    data : bytes
        What ``coded`` returned.
    sizes : Sequence[int]
        How many symbols each group has.
    alphabet : int
        Number of symbols A.

    Raises
    ------
    InvalidInputError
        For bytes that ``coded`` cannot have made.
    """
    begin = alphabet * sum(size > 0 for size in sizes)
    if len(data) < begin or (len(data) - begin) % 4:
        raise InvalidInputError(f"{len(data)} bytes of coded symbols; expected {begin} of counts, and words of 4")
    library = coder()
    decoder = library.stream.queue.RangeDecoder(np.frombuffer(data[begin:], "<u4").astype(np.uint32))
    found, place = [], 0
    for size in sizes:
        symbols = torch.empty(0, dtype=torch.int64)
        if size:
            table = np.frombuffer(data[place : place + alphabet], np.uint8)
            place += alphabet
            try:
                symbols = torch.from_numpy(decoder.decode(_model(library, table), size).astype(np.int64))
            except Exception as error:  # what a stranger's bytes make a library raise has no end
                raise InvalidInputError(f"coded symbols cannot be read: {' '.join(str(error).split())}") from None
        found.append(symbols)
    return found


def _table(counts: Tensor) -> np.ndarray[Any, Any]:
    """Return counts in a byte each; what occurs is at least 1."""
    scaled = (counts.double() * LEVEL / counts.max()).round().clamp(min=1)
    return torch.where(counts > 0, scaled, 0.0).to(torch.uint8).numpy()


def _model(library: Any, table: np.ndarray[Any, Any]) -> Any:
    """Return the distribution that both ends code by: of whole numbers, so that all machines have the same."""
    return library.stream.model.Categorical(table.astype(np.float32), perfect=False)
