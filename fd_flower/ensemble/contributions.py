"""What each client adds to a federation: to what all predict together, and to the variety of samples."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LEAST = 1e-12
"""The least probability before a logarithm is taken."""


def without_each(probs: Tensor) -> Tensor:
    """Return the mean prediction of all others, once for each client: [U, N, C].

    Parameters
    ----------
    probs : Tensor
        Each client's probabilities, float64 [U, N, C], of two clients at least.
    """
    return (probs.sum(0, keepdim=True) - probs) / (len(probs) - 1)


def right(probs: Tensor, truth: Tensor) -> Tensor:
    """Return where the likeliest class is the true one, float64 [..., N]: probabilities [..., N, C], classes [N]."""
    return (probs.argmax(-1) == truth).double()


def log_loss(probs: Tensor, truth: Tensor) -> Tensor:
    """Return the mean of ``-log p(true class)`` [...], in nats: probabilities [..., N, C], classes [N]."""
    places = truth.view(*[1] * (probs.dim() - 2), -1, 1).expand(*probs.shape[:-1], 1)
    return -probs.gather(-1, places).squeeze(-1).clamp(min=LEAST).log().mean(-1)


def externalities(probs: Tensor, truth: Tensor) -> Tensor:
    """Return by how much each client raises the accuracy of all others' mean prediction on each class: [U, C].

    That is the accuracy with it less that without it; NaN for a class without samples. Below 0 the others are better
    off without it: a data externality (Rolf et al. 2022), in our form.

    Parameters
    ----------
    probs : Tensor
        Each client's probabilities, float64 [U, N, C].
    truth : Tensor
        The samples' classes, int64 [N].
    """
    change = right(probs.mean(0), truth) - right(without_each(probs), truth)
    found = torch.full((len(probs), probs.shape[2]), math.nan, dtype=torch.float64)
    for c in truth.unique():
        found[:, c] = change[:, truth == c].mean(1)
    return found


def design_scores(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return how varied each client's samples are, and what they add to all clients': ``log det`` of designs, [U] each.

    ``log det(I + X_i^T X_i)`` of a client's own features, and ``log det(I + X^T X)`` of all less that without it (the
    criterion of D-optimal designs). Features are standardized over all samples, and divided by the root of their
    number, so that D features of a sample have the length 1.

    Parameters
    ----------
    features : Sequence[Tensor]
        Each client's samples as something sees them, [n, D]. What is the same for all samples does not count.
    """
    pooled = torch.cat(list(features)).double()
    mean, spread = pooled.mean(0), pooled.std(0, correction=0)
    kept = spread > LEAST
    width = max(int(kept.sum()), 1)
    scaled = [((x.double() - mean)[:, kept] / spread[kept]) / math.sqrt(width) for x in features]
    moments = torch.stack([x.T @ x for x in scaled])
    own = torch.stack([_log_det(moment) for moment in moments])
    total = moments.sum(0)
    everybody = _log_det(total)
    return own, torch.stack([everybody - _log_det(total - moment) for moment in moments])


def _log_det(moment: Tensor) -> Tensor:
    return torch.linalg.slogdet(torch.eye(len(moment), dtype=moment.dtype) + moment).logabsdet
