"""What a generator of features learns from: the linear heads of several clients, and how many labels each has seen."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def logits_of(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return every head's logits [K, B, C] on features [B, F], of weights [K, C, F] and biases [K, C]."""
    return torch.einsum("bf,kcf->kbc", features, weight) + bias.unsqueeze(1)


def shares(counts: Tensor) -> Tensor:
    """Return each client's share of the samples of a class [K, C], of counts [K, C]; 0 for a class without samples."""
    counts = counts.float()
    return counts / counts.sum(0).clamp_min(1.0)


def weighted_ce(logits: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """Return the heads' cross-entropies, a sample's weighted by the client's share of its class, summed over clients.

    Parameters
    ----------
    logits : Tensor
        [K, B, C].
    y : Tensor
        Classes [B].
    counts : Tensor
        Samples of each class that a client has seen [K, C].
    """
    return (shares(counts)[:, y] * _losses(logits, y)).sum(0).mean()


def released_ce(logits: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """Return what the authors' code takes for ``weighted_ce``: parameters as there.

    It multiplies losses [B] with weights [B, 1], which makes [B, B]: a client counts with the mean of its weights in
    the batch, whatever it knows of the sample. And its counters start from 1.
    """
    return (shares(counts + 1)[:, y].mean(1) * _losses(logits, y).mean(1)).sum()


def mean_logit(logits: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """Return the cross-entropy of the heads' mean logits; parameters as in ``weighted_ce``, counts do not matter."""
    return F.cross_entropy(logits.mean(0), y)


def accuracy(logits: Tensor, y: Tensor, counts: Tensor) -> float:
    """Return how often the heads see the class in the features, each sample's weighted as in ``weighted_ce``."""
    return float((shares(counts)[:, y] * (logits.argmax(2) == y)).sum(0).mean())


def _losses(logits: Tensor, y: Tensor) -> Tensor:
    """Return cross-entropies [K, B]."""
    return F.cross_entropy(logits.flatten(0, 1), y.repeat(len(logits)), reduction="none").view(logits.shape[:2])


ENSEMBLES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "weighted_ce": weighted_ce,
    "code": released_ce,
    "mean_logit": mean_logit,
}
"""Losses of a generator against several heads, by name: (logits, classes, counts) -> scalar."""
