"""Embedding-based heterogeneity: clusters of what an encoder sees are dealt out, not classes."""

from collections.abc import Callable

import numpy as np

from fd_flower.config import DataConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import numpy_rng
from fd_flower.data.partition.dirichlet import larger
from fd_flower.data.partition.rows import Rows

DRAWS = 1000
"""How often shares are drawn anew until every client has ``data.min_rows``; the paper's code never gives up."""

Allocation = Callable[[DataConfig, float, np.ndarray, np.random.Generator], np.ndarray | None]
"""Sizes of the clusters [K] -> how many rows of each a client gets [clients, K]; None: this draw is no partition."""


def embedding(data: DataConfig, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
    """Clusters (``groups``) are dealt out in shares that ``data.allocation`` draws (Borazjani et al.).

    The idea is that of "Redefining non-IID Data in Federated Learning for Computer Vision: Migrating from Labels to
    Embeddings"; `per_client` follows its code (KasraBorazjani/task-perspective-het). `per_cluster` is ours: what
    label-Dirichlet partitions do with classes, so that an alpha means the same in both.
    """
    assert groups is not None
    clusters = [np.flatnonzero(groups == cluster) for cluster in np.unique(groups)]
    sizes = np.array([len(rows) for rows in clusters])
    if data.allocation == "per_client" and data.clients <= len(clusters):
        raise InvalidInputError(
            f"data.allocation=per_client solves for clients' sizes, which takes more clients than clusters: "
            f"data.clients is {data.clients} for {len(clusters)} clusters (data.clusters); take more clients, fewer "
            f"clusters or data.allocation=per_cluster"
        )
    counts = _drawn(data, data.alpha, sizes, seed)
    if counts is None:
        advice = larger(data.alpha, lambda alpha: _drawn(data, alpha, sizes, seed) is not None)
        raise InvalidInputError(
            f"data.partition=embedding with data.alpha={data.alpha:g} found no partition of {len(labels)} rows among "
            f"{data.clients} clients with at least {data.min_rows} (data.min_rows) each in {DRAWS} draws: take {advice}"
            f"fewer clients or a smaller data.min_rows"
        )
    rng = numpy_rng(seed, "partition", "rows")
    held: list[list[np.ndarray]] = [[] for _ in range(data.clients)]
    for rows, numbers in zip(clusters, counts.T, strict=True):
        parts = np.split(rng.permutation(rows), np.cumsum(numbers))  # the last one is nobody's
        for own, part in zip(held, parts, strict=False):
            own.append(part)
    return [np.concatenate(own) for own in held]


def _drawn(data: DataConfig, alpha: float, sizes: np.ndarray, seed: int) -> np.ndarray | None:
    """Return the first draw [clients, K] that leaves every client ``data.min_rows``; None after too many."""
    rng, allocate = numpy_rng(seed, "partition"), _ALLOCATIONS[data.allocation]
    for _ in range(DRAWS):
        counts = allocate(data, alpha, sizes, rng)
        if counts is not None and counts.sum(1).min() >= data.min_rows:
            return counts
    return None


def _per_cluster(data: DataConfig, alpha: float, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each cluster is dealt out whole, in shares ~ Dirichlet(alpha, ..., alpha) over clients."""
    ends = np.cumsum(rng.dirichlet(np.full(data.clients, alpha), len(sizes)), axis=1) * sizes[:, None]
    # To the nearest: rounded down, the last client would have a row of every cluster, since shares add up to 0.999...
    return np.diff(np.rint(ends).astype(np.int64), axis=1, prepend=0).T


def _per_client(data: DataConfig, alpha: float, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Each client has a mixture of clusters ~ Dirichlet(alpha r), r the clusters' shares; sizes are solved for.

    The total concentration is alpha, whatever K: a tenth for each of ten clusters. Sizes m solve mixtures^T m = the
    clusters' sizes, least squares; rounding leaves some rows to nobody.
    """
    mixtures = rng.dirichlet(alpha * sizes / sizes.sum(), data.clients)
    numbers = (np.linalg.pinv(mixtures.T) @ sizes).astype(np.int64)
    if (numbers < 0).any() or (numbers @ mixtures > sizes).any():
        return None
    return (numbers[:, None] * mixtures).astype(np.int64)


_ALLOCATIONS: dict[str, Allocation] = {"per_cluster": _per_cluster, "per_client": _per_client}
