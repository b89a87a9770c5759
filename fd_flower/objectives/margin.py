"""Prototypes that lie apart: FedTGP's contrastive loss with a margin (Zhang et al. 2024, arXiv 2401.03230)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST = 1e-12
"""Added under the root, which has no gradient at 0."""


def widest_gap(prototypes: Tensor, known: Tensor) -> float:
    """Return how far the loneliest class's mean prototype is from the nearest other one.

    Parameters
    ----------
    prototypes : Tensor
        [U, C, F]: each client's mean features of each class.
    known : Tensor
        Which client has which class, bool [U, C].

    Returns
    -------
    float
        ``max_c min_{c' != c} ||P_c - P_c'||`` over the classes that somebody has, P_c the mean over these clients;
        infinity where there are not two such classes.
    """
    weights = known.double().unsqueeze(2)
    means = (weights * prototypes.double()).sum(0) / weights.sum(0).clamp_min(1.0)  # [C, F]
    means = means[known.any(0)]
    if len(means) < 2:
        return math.inf
    gaps = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist")
    gaps.fill_diagonal_(math.inf)
    return float(gaps.amin(1).amax())


def margin_loss(uploaded: Tensor, prototypes: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Return the cross-entropy of negated distances, those to the own class made longer by the margin.

    Parameters
    ----------
    uploaded : Tensor
        [B, F]: clients' prototypes.
    prototypes : Tensor
        [C, F]: the trainable ones.
    labels : Tensor
        [B] int64: the class of each uploaded one.
    margin : float
        What a prototype of the own class must be nearer by.
    """
    # Not by |a|^2 - 2 ab + |b|^2: in float32 that is below 0 for equal vectors, and its root is NaN.
    squares = (uploaded.float().unsqueeze(1) - prototypes.float().unsqueeze(0)).square().sum(2)
    distances = (squares + LEAST).sqrt()
    own = F.one_hot(labels, len(prototypes)).to(distances.dtype)
    return F.cross_entropy(-(distances + margin * own), labels)
