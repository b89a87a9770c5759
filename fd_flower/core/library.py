"""Texts of a process. Samples hold their hashes, from which models of any tokenizer look them up.

A text's hash is the first 128 bits of its SHA-256. Rows of hashes can be split, distributed, pooled and compared
between machines as any other inputs, whatever the tokenizers.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError

WORDS = 2
"""Numbers of a hash: samples of texts are int64 [N, 2]."""


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts in one order.

    Attributes
    ----------
    hashes : np.ndarray
        Each text's hash [N, 2], int64.
    data : np.ndarray
        All texts in UTF-8, one after the other, uint8.
    ends : np.ndarray
        Where each text ends in ``data`` [N], int64.
    """

    hashes: np.ndarray
    data: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Texts":
        """Return texts with their hashes."""
        encoded = [text.encode("utf-8", "replace") for text in texts]
        hashes = b"".join(hashlib.sha256(one).digest()[: 8 * WORDS] for one in encoded)
        ends = np.cumsum([len(one) for one in encoded], dtype=np.int64)
        data = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        return cls(np.frombuffer(hashes, dtype="<i8").reshape(-1, WORDS).copy(), data, ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> str:
        """Return a text."""
        start = self.ends[row - 1] if row else 0
        return self.data[start : self.ends[row]].tobytes().decode("utf-8")

    @cached_property
    def hash(self) -> str:
        """SHA-256 of all hashes in their order, in hexadecimal."""
        return hashlib.sha256(np.ascontiguousarray(self.hashes).tobytes()).hexdigest()

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.hashes[:, 0], kind="stable")
        return order, np.ascontiguousarray(self.hashes[order, 0])

    def rows_of(self, hashes: np.ndarray) -> np.ndarray:
        """Return the row of each hash [M]; -1 for those of other texts."""
        order, first = self._sorted
        if not len(order):
            return np.full(len(hashes), -1)
        place = np.minimum(np.searchsorted(first, hashes[:, 0]), len(first) - 1)
        rows = order[place]
        return np.where((self.hashes[rows] == hashes).all(1), rows, -1)


_SETS: dict[str, Texts] = {}


def keep(texts: Texts) -> Tensor:
    """Make texts known in this process, and return their hashes, int64 [N, 2]."""
    known = _SETS.setdefault(texts.hash, texts)
    return torch.from_numpy(known.hashes)


def put(texts: Sequence[str]) -> Tensor:
    """Make texts known in this process, and return their hashes, int64 [N, 2]."""
    return keep(Texts.of(texts)).clone()


def is_text(x: Tensor) -> bool:
    """Whether inputs [N, ...] are hashes of texts that this process knows."""
    if x.dtype != torch.int64 or x.shape[1:] != (WORDS,) or not len(x):
        return False
    first = x[:1].cpu().numpy()
    return any(texts.rows_of(first)[0] >= 0 for texts in _SETS.values())


def find(x: Tensor) -> Iterator[tuple[Texts, np.ndarray, np.ndarray]]:
    """Yield the sets in which texts [N, 2] are found: the set, the places [M] among the N, and their rows in it [M].

    Raises
    ------
    InvalidInputError
        For hashes of texts that this process does not know.
    """
    hashes = x.cpu().numpy()
    left = np.arange(len(hashes))
    for texts in list(_SETS.values()):
        if not len(left):
            return
        rows = texts.rows_of(hashes[left])
        there = rows >= 0
        if there.any():
            yield texts, left[there], rows[there]
            left = left[~there]
    if len(left):
        raise InvalidInputError(
            f"{len(left)} of {len(hashes)} texts are not known in this process: samples of texts are made where the "
            "texts are read"
        )


def texts_of(x: Tensor) -> list[str]:
    """Return the texts of hashes [N, 2]; InvalidInputError for unknown ones."""
    found = [""] * len(x)
    for texts, places, rows in find(x):
        for place, row in zip(places, rows, strict=True):
            found[place] = texts[row]
    return found
