"""Who is whose neighbor, judged by what they predict: divergences receiver first, weights, how many count.

``d[k, j]`` is ``KL(p_k || p_j)``: how badly what j says describes what the receiver k says. It is not symmetric. All of
it is taken in float64: the weights are exponentials of these numbers.
"""

import math

import numpy as np
import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError

SMOOTHING = 1e-8
"""The least probability before a logarithm is taken; rows are normalized again."""


def distribution_divergence(logprobs: Tensor, mask: Tensor, smoothing: float = SMOOTHING) -> Tensor:
    """Compare the clients' mean predictions: [U, U], receiver first.

    The mean over the samples that a client voted on estimates the mix of its own classes.

    Parameters
    ----------
    logprobs : Tensor
        [U, N, C]
    mask : Tensor
        Who voted on which sample, bool [U, N]. A voter without a vote is infinitely far from all others.
    smoothing : float
        The least probability.
    """
    probs = logprobs.double().exp().masked_fill(~mask.unsqueeze(2), 0.0)
    votes = mask.sum(1, keepdim=True)
    mean = _smoothed(probs.sum(1) / votes.clamp(min=1), smoothing)
    divergence = (mean * mean.log()).sum(1, keepdim=True) - mean @ mean.log().T
    return _exact(divergence.masked_fill(~((votes > 0) & (votes > 0).T), math.inf))


def sample_divergence(logprobs: Tensor, mask: Tensor, smoothing: float = SMOOTHING) -> Tensor:
    """Compare the clients sample by sample: [U, U], receiver first, the mean over the samples that both voted on.

    Parameters
    ----------
    logprobs : Tensor
        [U, N, C]
    mask : Tensor
        Who voted on which sample, bool [U, N]. Two who share no sample are infinitely far from each other.
    smoothing : float
        The least probability.
    """
    voted = mask.double()
    probs = _smoothed(logprobs.double().exp().masked_fill(~mask.unsqueeze(2), 0.0), smoothing)
    logs = probs.log().masked_fill(~mask.unsqueeze(2), 0.0)
    negentropy = (probs * logs).sum(2) @ voted.T
    crossed = (probs * voted.unsqueeze(2)).flatten(1) @ logs.flatten(1).T
    both = voted @ voted.T
    return _exact(((negentropy - crossed) / both.clamp(min=1)).masked_fill(both == 0, math.inf))


def over_median(divergence: Tensor) -> Tensor:
    """Divide divergences [U, U] by their median over all pairs that differ, so that no scale is left: [U, U].

    Pairs at distance 0, such as a client and itself, and infinite ones do not count; without other pairs they are
    kept.
    """
    apart = divergence[(divergence > 0) & ~divergence.isinf()]
    return divergence / float(np.median(apart.cpu().numpy())) if len(apart) else divergence


def neighbor_weights(divergence: Tensor, beta: float, *, include_self: bool = True) -> Tensor:
    """Return how much each client counts to each receiver, ``softmax(-beta d)`` over the senders: [R, U].

    Parameters
    ----------
    divergence : Tensor
        [U, U], receiver first, 0 on the diagonal; inf: not a neighbor at any beta.
    beta : float
        Sharpness, not negative: 0 counts all the same, a large one only those who say the same.
    include_self : bool
        Whether a receiver counts among its own neighbors. If not, one that has no other has weights of 0 alone.

    Raises
    ------
    InvalidInputError
        If beta is negative or not finite.
    """
    if not 0 <= beta < math.inf:
        raise InvalidInputError(f"beta is {beta}; expected a number of 0 or more")
    apart = divergence.isinf()
    if not include_self:
        apart = apart | torch.eye(len(divergence), dtype=torch.bool, device=divergence.device)
    scores = (-beta * divergence).masked_fill(apart, -math.inf)
    return scores.softmax(1).masked_fill(apart, 0.0)


def effective_neighbors(weight: Tensor) -> Tensor:
    """Return how many neighbors a receiver's weights [R, U] amount to, ``exp(H(w))`` [R]: 1 to U, 0 for none."""
    total = weight.sum(1, keepdim=True)
    shares = weight / torch.where(total > 0, total, 1.0)
    return torch.where(total.squeeze(1) > 0, torch.special.entr(shares).sum(1).exp(), 0.0)


def _smoothed(probs: Tensor, least: float) -> Tensor:
    probs = probs.clamp(min=least)
    return probs / probs.sum(-1, keepdim=True)


def _exact(divergence: Tensor) -> Tensor:
    """Return divergences without the rounding: none below 0, and 0 from a voter to itself."""
    return divergence.clamp(min=0).fill_diagonal_(0)
