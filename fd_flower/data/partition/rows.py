"""Rows as every rule deals them, and how a partitioner of flwr-datasets is asked for them."""

import contextlib
import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from fd_flower.core.rng import numpy_rng

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

Rows = list[np.ndarray]
"""For each client the rows that it holds."""


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
