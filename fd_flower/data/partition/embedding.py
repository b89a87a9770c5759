"""Embedding-based heterogeneity: clusters of an encoder's features are distributed, not classes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import numpy_rng
from fd_flower.data.partition.dirichlet import larger
from fd_flower.data.partition.rows import Rows
from fd_flower.data.partition.rule import Rule

DRAWS = 1000
"""How often shares are drawn again until every client has ``data.min_rows``; the paper's code never gives up."""

Allocation = Callable[[int, float, np.ndarray, np.random.Generator], np.ndarray | None]
"""Clients, alpha, sizes of the clusters [K] -> rows of each at each client [clients, K]; None: no partition."""


@final
@dataclass(frozen=True)
class Embedding(Rule):
    """Clusters (``groups``) are distributed in shares that ``data.allocation`` draws (Borazjani et al.).

    The idea is that of "Redefining non-IID Data in Federated Learning for Computer Vision: Migrating from Labels to
    Embeddings"; `per_client` follows its code (KasraBorazjani/task-perspective-het). `per_cluster` is our own: what
    label-Dirichlet partitions do with classes, so that an alpha means the same in both.
    """

    alpha: float
    clusters: int
    allocation: str

    def deal(self, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> Rows:
        """Return each client's rows."""
        assert groups is not None
        clusters = [np.flatnonzero(groups == cluster) for cluster in np.unique(groups)]
        sizes = np.array([len(rows) for rows in clusters])
        if self._too_few(sizes):
            raise InvalidInputError(
                f"data.allocation=per_client solves for clients' sizes, which takes more clients than clusters: "
                f"data.clients is {self.clients} for {len(clusters)} clusters (data.clusters); take more clients, "
                f"fewer clusters or data.allocation=per_cluster"
            )
        counts = self._drawn(sizes, seed)
        if counts is None:
            advice = larger(self.alpha, lambda alpha: replace(self, alpha=alpha)._drawn(sizes, seed) is not None)
            raise InvalidInputError(
                f"data.partition=embedding with data.alpha={self.alpha:g} found no partition of {len(labels)} rows "
                f"among {self.clients} clients with at least {self.min_rows} (data.min_rows) each in {DRAWS} draws: "
                f"take {advice}fewer clients or a smaller data.min_rows"
            )
        rng = numpy_rng(seed, "partition", "rows")
        held: list[list[np.ndarray]] = [[] for _ in range(self.clients)]
        for rows, numbers in zip(clusters, counts.T, strict=True):
            parts = np.split(rng.permutation(rows), np.cumsum(numbers))  # the last one is left over
            for own, part in zip(held, parts, strict=False):
                own.append(part)
        return [np.concatenate(own) for own in held]

    def possible(self, labels: np.ndarray, groups: np.ndarray | None, seed: int) -> bool:
        """Whether shares are found, without looking for other alphas."""
        assert groups is not None
        sizes = np.unique(groups, return_counts=True)[1]
        return not self._too_few(sizes) and self._drawn(sizes, seed) is not None

    def _too_few(self, sizes: np.ndarray) -> bool:
        """Whether these are fewer clients than clusters of these sizes [K] ask for."""
        return self.allocation == "per_client" and self.clients <= len(sizes)

    def _drawn(self, sizes: np.ndarray, seed: int) -> np.ndarray | None:
        """Return the first draw [clients, K] that leaves every client ``data.min_rows``; None after too many."""
        rng, allocate = numpy_rng(seed, "partition"), _ALLOCATIONS[self.allocation]
        for _ in range(DRAWS):
            counts = allocate(self.clients, self.alpha, sizes, rng)
            if counts is not None and counts.sum(1).min() >= self.min_rows:
                return counts
        return None


def _per_cluster(clients: int, alpha: float, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each cluster is distributed whole, in shares ~ Dirichlet(alpha, ..., alpha) over clients."""
    ends = np.cumsum(rng.dirichlet(np.full(clients, alpha), len(sizes)), axis=1) * sizes[:, None]
    # To the nearest: rounded down, the last client would have a row of every cluster, since shares add up to 0.999...
    return np.diff(np.rint(ends).astype(np.int64), axis=1, prepend=0).T


def _per_client(clients: int, alpha: float, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Each client has a mixture of clusters ~ Dirichlet(alpha r), r the clusters' shares; sizes are solved for.

    The total concentration is alpha, whatever K: a tenth for each of ten clusters. Sizes m solve mixtures^T m = the
    clusters' sizes, least squares; rounding leaves some rows to no client.
    """
    mixtures = rng.dirichlet(alpha * sizes / sizes.sum(), clients)
    numbers = (np.linalg.pinv(mixtures.T) @ sizes).astype(np.int64)
    if (numbers < 0).any() or (numbers @ mixtures > sizes).any():
        return None
    return (numbers[:, None] * mixtures).astype(np.int64)


_ALLOCATIONS: dict[str, Allocation] = {"per_cluster": _per_cluster, "per_client": _per_client}
