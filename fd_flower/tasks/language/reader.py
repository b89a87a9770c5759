"""Texts as tokens in full length, each read once."""

from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fd_flower.core import library
from fd_flower.core.library import Texts

Encode = Callable[[Sequence[str]], list[list[int]]]
"""Texts to each one's tokens, without any that is not the text's."""


@final
class Reader:
    """Texts as tokens, by one tokenizer; copies of a model have it in common."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._read: dict[str, list[NDArray[np.int32] | None]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Reader":
        return self

    def __call__(self, x: Tensor) -> list[NDArray[np.int32]]:
        """Return the tokens of each text [B, 2]; none of an empty one."""
        found: list[NDArray[np.int32]] = [np.empty(0, np.int32)] * len(x)
        for texts, places, rows in library.find(x):
            read = self._rows(texts, rows)
            for place, row in zip(places, rows, strict=True):
                tokens = read[row]
                assert tokens is not None
                found[place] = tokens
        return found

    def lengths(self, x: Tensor) -> Tensor:
        """Return the number of tokens of each text [B, 2], int64 [B] on the CPU."""
        return torch.tensor([len(tokens) for tokens in self(x)], dtype=torch.int64)

    def _rows(self, texts: Texts, rows: NDArray[Any]) -> list[NDArray[np.int32] | None]:
        """Return a set's tokens, of which those of these rows are there."""
        read = self._read.setdefault(texts.hash, [None] * len(texts))
        missing = sorted({int(row) for row in rows if read[row] is None})
        for row, tokens in zip(missing, self._encode([texts[row] for row in missing]), strict=True):
            read[row] = np.array(tokens, np.int32)
        return read
