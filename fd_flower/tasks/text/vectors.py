"""Vectors of texts by a frozen encoder: each text is encoded once a machine, when it is first needed."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from logging import INFO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from fd_flower.core import library
from fd_flower.core.flower import log
from fd_flower.core.library import Texts
from fd_flower.data.cache import stored
from fd_flower.tasks.text.reader import Reader
from fd_flower.training import one_thread

LAYOUT = 1  # of the cached files and of how texts are encoded: raise it when either changes
BATCH, STEP = 8, 16
"""Texts of a batch, and the multiple of tokens that it is padded to: with few shapes, what the others of a batch are
does not change a text's last bits."""
SECONDS = 10  # between two lines about the progress


class Vectors:
    """A frozen encoder's vectors, from a cache that all processes of a machine share.

    Parameters
    ----------
    called : str
        The model's name, for lines about the progress.
    identity : str
        All that vectors are a function of, apart from the texts.
    reader : Reader
        Texts to tokens.
    network : Callable[[], nn.Module]
        Makes the encoder, tokens [B, L] to vectors [B, D]; it is asked for when a text is not in the cache.
    width : int
        D.
    longest : int | None
        The most tokens that the encoder takes, with those that fill a text up; None: any number.
    """

    def __init__(
        self,
        called: str,
        identity: str,
        reader: Reader,
        network: Callable[[], nn.Module],
        width: int,
        longest: int | None = None,
    ) -> None:
        self.called = called
        self.identity = identity
        self.width = width
        self._longest = longest
        self._reader = reader
        self._make = network
        self._network: nn.Module | None = None
        self._tables: dict[str, tuple[np.memmap, np.memmap, Path]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Vectors":
        return self  # copies of a model read the same vectors

    def __call__(self, x: Tensor) -> Tensor:
        """Return the vectors [B, D] float32 of texts [B, 2], on their device."""
        found = torch.empty(len(x), self.width)
        for texts, places, rows in library.find(x):
            found[torch.from_numpy(places)] = torch.from_numpy(self._filled(texts, rows)[rows])
        return found.to(x.device)

    def _filled(self, texts: Texts, rows: np.ndarray) -> np.ndarray:
        """Return the table of a set's vectors [T, D], in which these rows are filled."""
        if texts.hash not in self._tables:
            key = [LAYOUT, self.identity, texts.hash]
            folder = stored("vectors", key, partial(_empty, len(texts), self.width))
            table, done = (open_memmap(folder / name, mode="r+") for name in ("vectors.npy", "done.npy"))
            self._tables[texts.hash] = table, done, folder
        table, done, folder = self._tables[texts.hash]
        if not done[rows].all():
            with _locked(folder):  # another process may be at the same texts: what it encodes is not encoded again
                missing = np.unique(rows[~done[rows]])
                for some, vectors in self._encoded(texts, missing):
                    table[some] = vectors
                    table.flush()
                    done[some] = True
                done.flush()
        return table

    @torch.no_grad()
    def _encoded(self, texts: Texts, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield rows [M] and their vectors [M, D]."""
        if self._network is None:
            self._network = self._make().eval().requires_grad_(False)
        tokens = self._reader.tokens(torch.from_numpy(texts.hashes[rows]))
        steps = (((tokens >= 0).sum(1) + STEP - 1) // STEP).clamp(min=1)
        order = steps.argsort(stable=True)
        begun = last = time.monotonic()
        done = 0
        with one_thread():
            for length in steps.unique().tolist():
                columns = min(length * STEP, self._longest or length * STEP)
                for batch in order[steps[order] == length].split(BATCH):
                    padded = torch.full((BATCH, columns), -1, dtype=torch.int32)
                    own = tokens[batch][:, :columns]
                    padded[: len(batch), : own.shape[1]] = own
                    yield rows[batch.numpy()], self._network(padded)[: len(batch)].float().numpy()
                    done += len(batch)
                    if (now := time.monotonic()) - last > SECONDS:
                        last = now
                        left = (now - begun) / done * (len(rows) - done)
                        log(INFO, "%s: %s of %s texts encoded, %.0f s left", self.called, done, len(rows), left)


def _empty(count: int, width: int, folder: Path) -> None:
    for name, shape, kind in (("vectors", (count, width), np.float32), ("done", (count,), np.bool_)):
        open_memmap(folder / f"{name}.npy", mode="w+", dtype=kind, shape=shape).flush()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
