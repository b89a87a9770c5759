"""Which rows each client trains, is validated and is tested on, of all clients at once."""

import hashlib
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from fd_flower.config import DataConfig
from fd_flower.core.rng import numpy_rng
from fd_flower.data import cut
from fd_flower.data.cache import stored
from fd_flower.data.partition import Held

PARTS = ("train", "validation", "test")
"""A client's parts, by their numbers."""

LAYOUT = 1  # of the files in the cache, and of how they are drawn: raise it when either changes


@dataclass(frozen=True, eq=False)
class Portions:
    """Every client's rows, cut into three parts.

    Attributes
    ----------
    rows : np.ndarray
        Client by client the rows of its parts [M], int32.
    sizes : np.ndarray
        How many rows there are in each client's parts [N, 3], int64.
    """

    rows: np.ndarray
    sizes: np.ndarray

    @classmethod
    def drawn(cls, held: Held, labels: np.ndarray, data: DataConfig, seed: int) -> "Portions":
        """Return the cut by class and (seed, client) that ``cut_rows`` makes for one client, from the disk once drawn.

        Parameters
        ----------
        held : Held
            Who holds which.
        labels : np.ndarray
            The classes of all rows.
        data : DataConfig
            ``split`` and ``per_client``.
        seed : int
            The run's seed.
        """
        about = [hashlib.sha256(array.tobytes()).hexdigest() for array in (held.rows, held.ends, labels[held.rows])]
        key = [LAYOUT, *about, list(data.split), data.per_client, seed]
        # Each client has a generator of its own, which takes a hundred thousand of them two seconds.
        folder = stored("cuts", key, partial(_save, held, labels, data, seed))
        return cls(np.load(folder / "rows.npy"), np.load(folder / "sizes.npy"))

    @cached_property
    def _ends(self) -> np.ndarray:
        """Where each part of each client ends, after a 0 [3N + 1]."""
        return np.concatenate([[0], np.cumsum(self.sizes)])

    def of(self, client: int, part: str) -> np.ndarray:
        """Return the rows of a client's part, int64."""
        place = client * len(PARTS) + PARTS.index(part)
        return self.rows[self._ends[place] : self._ends[place + 1]].astype(np.int64)

    def whole(self, part: str) -> np.ndarray:
        """Return the rows of this part of all clients, one after the other, int64."""
        return self.rows[self._is(part)].astype(np.int64)

    def counts(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Return how many training rows each client has of each class [N, C], int32; ``labels`` are all rows'."""
        number = len(self.sizes)
        client = np.repeat(np.arange(number), self.sizes[:, PARTS.index("train")])
        pairs = client * classes + labels[self.rows[self._is("train")]]
        return np.bincount(pairs, minlength=number * classes).reshape(number, classes).astype(np.int32)

    def _is(self, part: str) -> np.ndarray:
        """Whether a row is of this part [M]."""
        is_part = np.arange(len(PARTS)) == PARTS.index(part)
        return np.repeat(np.tile(is_part, len(self.sizes)), self.sizes.ravel())


def _save(held: Held, labels: np.ndarray, data: DataConfig, seed: int, folder: Path) -> None:
    """Draw the cut, and write ``rows.npy`` and ``sizes.npy``."""
    ends, most = held.ends.tolist(), data.per_client
    orders = [
        numpy_rng(seed, "split", number).permutation(end - start)[:most] + start
        for number, (start, end) in enumerate(pairwise(ends))
    ]
    kept = held.sizes if most is None else np.minimum(held.sizes, most)
    rows = held.rows[np.concatenate(orders)]
    part = cut.numbered(labels[rows], np.concatenate([[0], np.cumsum(kept)]), data.split)
    place = np.repeat(np.arange(len(kept)), kept) * len(PARTS) + part
    np.save(folder / "rows.npy", rows[np.argsort(place, kind="stable")])
    np.save(folder / "sizes.npy", np.bincount(place, minlength=len(kept) * len(PARTS)).reshape(-1, len(PARTS)))
