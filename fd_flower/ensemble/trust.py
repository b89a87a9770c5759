"""How much voters are trusted by how far they were from the ensemble, and how much they agree."""

import math

import torch
from torch import Tensor


def distances(logprobs: Tensor, mask: Tensor, result: Tensor) -> Tensor:
    """Return each voter's mean Euclidean distance to the ensemble, in probabilities: float64 [U].

    Parameters
    ----------
    logprobs : Tensor
        The votes, log-probabilities [U, N, C].
    mask : Tensor
        Which of them count, bool [U, N]. A voter without a vote is at distance 0.
    result : Tensor
        The ensemble's log-probabilities [N, C].
    """
    apart = (logprobs.double().exp() - result.double().exp()).norm(dim=2).masked_fill(~mask, 0.0)
    return apart.sum(1) / mask.sum(1).clamp(min=1)


def trust(total: Tensor, step: float, cap: float) -> Tensor:
    """Return exponential weights ``exp(-step d)`` of distances added up over rounds [U]: float64 [U].

    Only ratios matter, so the greatest is 1.

    Parameters
    ----------
    total : Tensor
        Distances [U].
    step : float
        How fast the weight falls, not negative.
    cap : float
        How many times as much as the median voter a voter may count, 1 or more.
    """
    logs = -step * total.double()
    logs = logs.clamp(max=float(logs.quantile(0.5)) + math.log(cap))
    return (logs - logs.amax()).exp()


def pairwise_agreement(logprobs: Tensor, mask: Tensor) -> float | None:
    """Return how often two voters find the same class the most likely one, over the samples on which both voted.

    Parameters
    ----------
    logprobs : Tensor
        [U, N, C]
    mask : Tensor
        Who voted on which sample, bool [U, N].

    Returns
    -------
    float | None
        0 to 1; None: no two voters share a sample.
    """
    voted = mask.double()
    top = torch.nn.functional.one_hot(logprobs.argmax(2), logprobs.shape[2]).double() * voted.unsqueeze(2)
    same, votes = top.sum(0), voted.sum(0)
    pairs = float((votes * (votes - 1)).sum())
    return float((same * (same - 1)).sum()) / pairs if pairs else None
