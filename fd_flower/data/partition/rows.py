"""Rows as every rule deals them, and how a partitioner of flwr-datasets is asked for them."""

import contextlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

from fd_flower.core.rng import numpy_rng

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

Rows = list[np.ndarray]
"""For each client the rows that it holds."""


@dataclass(frozen=True, eq=False)
class Held(Sequence[np.ndarray]):
    """The rows of each client, one after the other in one array: a hundred thousand small ones would be 15 MB more.

    Attributes
    ----------
    rows : np.ndarray
        All clients' rows [M], int32.
    ends : np.ndarray
        Where each client's rows end, after a 0 [N + 1], int64.
    """

    rows: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, sizes: np.ndarray) -> "Held":
        """Return rows that are cut into these sizes."""
        return cls(rows.astype(np.int32, copy=False), np.concatenate([[0], np.cumsum(sizes)]))

    @property
    def sizes(self) -> np.ndarray:
        """How many rows each client has [N]."""
        return np.diff(self.ends)

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, place: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, place: slice) -> list[np.ndarray]: ...

    def __getitem__(self, place: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place %= len(self)
        return self.rows[self.ends[place] : self.ends[place + 1]].astype(np.int64)


def shuffled(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return all rows [N] in a random order."""
    return numpy_rng(seed, "partition").permutation(len(labels))


def run(partitioner: "Partitioner", **columns: np.ndarray) -> Rows:
    """Return the column ``row`` of each partition. Quiet: partitioners warn in kilobytes and draw progress bars."""
    import datasets

    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stderr(io.StringIO()):
        partitioner.dataset = datasets.Dataset.from_dict(columns)
        numbers = range(partitioner.num_partitions)
        return [np.asarray(partitioner.load_partition(number)["row"][:], dtype=np.int64) for number in numbers]
