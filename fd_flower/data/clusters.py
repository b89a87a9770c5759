"""Clusters of what `data.encoder` sees: what the partition `embedding` deals out, and what a report counts."""

from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from fd_flower.config import DataConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import seed_of
from fd_flower.core.samples import Samples
from fd_flower.data.cache import stored
from fd_flower.data.public import checksum
from fd_flower.training import one_thread

LAYOUT = 1  # of the cached file and of how it is made: raise it when either changes


def clustered(samples: Samples, data: DataConfig, seed: int) -> np.ndarray:
    """Return each sample's cluster [N], int64: mini-batch k-means of the encoder's features, no label being used.

    Features other than pixels are standardized by these samples themselves. Made once a machine for the same samples,
    encoder, number of clusters and seed.

    Parameters
    ----------
    samples : Samples
        All private samples; their labels are not looked at.
    data : DataConfig
        ``encoder`` and ``clusters``; ``source`` is what no encoder may be trained on.
    seed : int
        The run's seed.

    Raises
    ------
    InvalidInputError
        Where the encoder cannot be had, or there are fewer samples than clusters.
    """
    from fd_flower.data.encoder import identity  # which reads sources, so it imports this package

    if len(samples) < data.clusters:
        raise InvalidInputError(
            f"{len(samples)} private rows cannot make {data.clusters} clusters: take fewer (data.clusters)"
        )
    seen = identity(data, tuple(samples.x.shape[1:]))
    key = [LAYOUT, checksum(samples), seen, data.clusters, seed, version("scikit-learn")]
    return np.load(stored("clusters", key, partial(_save, samples, data, seed)) / "clusters.npy")


def _save(samples: Samples, data: DataConfig, seed: int, folder: Path) -> None:
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    from fd_flower.data.encoder import encoder

    with one_thread():
        features = encoder(data, samples)(samples).numpy()
    # With several threads the order of its sums, and so their last bits, would be the scheduler's.
    with threadpool_limits(1):
        kmeans = MiniBatchKMeans(data.clusters, n_init=3, random_state=seed_of(seed, "clusters") % 2**32)
        np.save(folder / "clusters.npy", kmeans.fit_predict(features).astype(np.int64))
