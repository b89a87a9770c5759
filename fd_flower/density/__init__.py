"""Which public samples look like a client's own: density estimators, and the votes that they give.

One interface: ``fit(own [m, D], ...) -> estimator``, frozen, with ``estimator.score(x [N, D]) -> [N]`` float64, the
higher the more ``x`` looks like the client's own samples; scores of one estimator alone can be compared. ``vote``
turns an estimator into a vote per public sample, by a threshold from own samples that it was not fitted to. Features
are float64 on the CPU (``World.encoded``).

* ``kulsif.fit(own, background, width, penalty)``: the ratio of own density to a background's, by kernels;
* ``kmeans.fit(own, labels, clusters, seed)``: minus the distance to the nearest centroid;
* ``vote(own, labels, public, fit, ...)``: bool [N].
"""

from fd_flower.density import kmeans, kulsif
from fd_flower.density.votes import Estimator, vote

__all__ = ["Estimator", "kmeans", "kulsif", "vote"]
