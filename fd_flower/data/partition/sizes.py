"""Rules by which labels are alike: equal sizes, skewed sizes."""

import numpy as np

from fd_flower.config import DataConfig
from fd_flower.core.rng import numpy_rng
from fd_flower.data.partition.rows import Rows, run, shuffled


def iid(data: DataConfig, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
    """Equally many rows each, at random."""
    from flwr_datasets.partitioner import IidPartitioner

    return run(IidPartitioner(data.clients), row=shuffled(labels, seed))


def quantity(data: DataConfig, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
    """Sizes skewed, labels alike: what ``data.min_rows`` leaves is shared out by one Dirichlet draw over clients."""
    from flwr_datasets.partitioner import SizePartitioner

    rng = numpy_rng(seed, "partition", "sizes")
    spare = len(labels) - data.clients * data.min_rows
    bounds = np.cumsum(rng.dirichlet(np.full(data.clients, data.alpha))) * spare
    bounds[-1] = spare  # the sum of the shares is 1 but for rounding
    sizes = np.diff(np.floor(bounds).astype(int), prepend=0) + data.min_rows
    return run(SizePartitioner(sizes.tolist()), row=shuffled(labels, seed))
