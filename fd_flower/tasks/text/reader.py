"""Tokens of texts: one reader a tokenizer and length, which reads each text once, when it is first needed."""

import re
import zlib
from collections.abc import Callable, Sequence
from logging import INFO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fd_flower.core import library
from fd_flower.core.flower import log
from fd_flower.core.library import Texts

BUCKETS = 2**14
"""Numbers of the words of built-in models."""

LOOKED_AT = 500
"""Texts of a set by which the share of those that are cut is estimated."""

Tokenize = Callable[[Sequence[str]], list[list[int]]]
"""Texts to each one's tokens, in full length."""


def hashed_words(texts: Sequence[str]) -> list[list[int]]:
    """Return each word's bucket, by its checksum: a tokenizer without a file."""
    words = (re.findall(r"\w+", text.lower()) for text in texts)
    return [[zlib.crc32(word.encode()) % BUCKETS for word in own] for own in words]


class Reader:
    """Texts as tokens.

    Parameters
    ----------
    called : str
        What the tokenizer belongs to, for a line about texts that are cut.
    tokenize : Tokenize
        Texts to tokens. A text that is empty has none.
    cut : Callable[[list[int], int], list[int]]
        A text's tokens and a length to at most so many of them; tokens at the end that a model needs stay.
    length : int
        L, the maximum number of tokens.
    """

    def __init__(
        self, called: str, tokenize: Tokenize, cut: Callable[[list[int], int], list[int]], length: int
    ) -> None:
        self.called = called
        self.length = length
        self._tokenize = tokenize
        self._cut = cut
        self._read: dict[str, tuple[Tensor, np.ndarray]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Reader":
        return self  # copies of a model read the same tokens

    def tokens(self, x: Tensor) -> Tensor:
        """Return the tokens of texts [B, 2] as int32 [B, longest], on their device; -1 where a text has ended."""
        found = torch.full((len(x), self.length), -1, dtype=torch.int32)
        for texts, places, rows in library.find(x):
            found[torch.from_numpy(places)] = self._rows(texts, rows)[torch.from_numpy(rows)]
        longest = max(int((found >= 0).sum(1).max()), 1) if len(x) else 1
        return found[:, :longest].to(x.device)

    def of(self, texts: Sequence[str]) -> Tensor:
        """Return the tokens of texts as int32 [N, longest], -1 where a text has ended; nothing of them is kept."""
        kept = [self._cut(tokens, self.length) for tokens in self._tokenize(texts)]
        found = torch.full((len(kept), max(map(len, kept), default=0) or 1), -1, dtype=torch.int32)
        for row, tokens in zip(found, kept, strict=True):
            row[: len(tokens)] = torch.tensor(tokens, dtype=torch.int32)
        return found

    def lengths(self, x: Tensor) -> Tensor:
        """Return the number of tokens of each text, int64 [B] on the CPU."""
        found = torch.zeros(len(x), dtype=torch.int64)
        for texts, places, rows in library.find(x):
            found[torch.from_numpy(places)] = (self._rows(texts, rows)[torch.from_numpy(rows)] >= 0).sum(1)
        return found

    def _rows(self, texts: Texts, rows: np.ndarray) -> Tensor:
        """Return the table of a set's tokens [T, L], in which these rows are filled."""
        if texts.hash not in self._read:
            table = torch.full((len(texts), self.length), -1, dtype=torch.int32)
            self._read[texts.hash] = table, np.zeros(len(texts), dtype=bool)
            self._report(texts)
        table, done = self._read[texts.hash]
        missing = np.unique(rows[~done[rows]])
        if len(missing):
            for row, tokens in zip(missing, self._tokenize([texts[int(row)] for row in missing]), strict=True):
                kept = self._cut(tokens, self.length)
                table[row, : len(kept)] = torch.tensor(kept, dtype=torch.int32)
            done[missing] = True
        return table

    def _report(self, texts: Texts) -> None:
        """Say how many of a set's texts are cut, by some of them."""
        some = np.unique(np.linspace(0, len(texts) - 1, LOOKED_AT).astype(int))
        found = self._tokenize([texts[int(row)] for row in some])
        longer = sum(len(tokens) > self.length for tokens in found)
        if 100 * longer >= len(some):
            share = f"{100 * longer / len(some):.0f} %"
            log(
                INFO, "%s reads the first %s tokens (data.length): %s of texts are cut", self.called, self.length, share
            )


def first(tokens: list[int], length: int) -> list[int]:
    """Return the first tokens."""
    return tokens[:length]
