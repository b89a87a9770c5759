"""Distance to the nearest centroid of k-means, as a stand-in for a density."""

from dataclasses import dataclass
from logging import WARNING
from typing import final

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.flower import log

EACH = 5
"""Samples a cluster, at least: a centroid of one or two samples is as near to nothing else as a sample is."""


@final
@dataclass(frozen=True, eq=False)
class KMeans:
    """Centroids.

    Attributes
    ----------
    centroids : Tensor
        [K, D], float64.
    """

    centroids: Tensor

    def score(self, x: Tensor) -> Tensor:
        """Return minus the distance [N] of x [N, D] to the nearest centroid.

        As a density this is one Gaussian a centroid, all of one width: exp(-d^2) falls as d grows, so a threshold on
        one is a threshold on the other, and on the ratio to an even background.
        """
        return -torch.cdist(x.double(), self.centroids).amin(1)


def fit(own: Tensor, labels: Tensor | None, clusters: int, seed: int) -> KMeans:
    """Return the centroids of own samples.

    Parameters
    ----------
    own : Tensor
        [m, D], m at least 1.
    labels : Tensor | None
        Classes [m]: each class gets clusters of its own; None: all samples together.
    clusters : int
        Of each class, or of all samples together; fewer, and a log line, where there are fewer than five samples for
        each.
    seed : int
        Of the first centroids (k-means++).

    Raises
    ------
    InvalidInputError
        Where there is no sample, or fewer than one cluster is asked for.
    """
    if not len(own) or clusters < 1:
        raise InvalidInputError(f"k-means has {len(own)} samples for {clusters} clusters; expected at least 1 of each")
    own = own.double()
    groups = [own] if labels is None else [own[labels == c] for c in labels.unique()]
    sizes = [max(1, min(clusters, len(group) // EACH)) for group in groups]
    if min(sizes) < clusters:
        few = ", ".join(f"{k} of {len(group)}" for k, group in zip(sizes, groups, strict=True) if k < clusters)
        log(WARNING, "k-means: fewer clusters than %s, for lack of samples: %s", clusters, few)
    return KMeans(torch.cat([_centroids(group, k, seed) for group, k in zip(groups, sizes, strict=True)]))


STARTS = 10
"""Starts of k-means where rows are clients, which are few."""


def clusters_of(rows: Tensor, clusters: int, seed: int) -> Tensor:
    """Return the cluster of each row [N, D], int64 [N]: the best of several starts, of at most N clusters."""
    return torch.cdist(rows, _centroids(rows, min(clusters, len(rows)), seed, STARTS)).argmin(1)


def shares(counts: Tensor) -> Tensor:
    """Return counts by class [U, C] as each row's shares, float64; a row of none stays zeros."""
    counts = counts.double()
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def _centroids(x: Tensor, clusters: int, seed: int, starts: int = 1) -> Tensor:
    """Return the centroids [clusters, D] of x [N, D], float64: the best of several starts."""
    if clusters == 1:
        return x.mean(0, keepdim=True)
    # Imported where they are used: scikit-learn takes a second, and most methods do without.
    from sklearn.cluster import KMeans as Lloyd
    from threadpoolctl import threadpool_limits

    # With several threads the order of its sums, and so their last bits, would be the scheduler's.
    with threadpool_limits(1):
        found = Lloyd(clusters, n_init=starts, random_state=seed % 2**32).fit(x.numpy())
    return torch.from_numpy(found.cluster_centers_)
