"""How much each vote counts. Rules divide by the sum over the voters, so only ratios matter."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError


def confidence(logprobs: Tensor) -> Tensor:
    """Return each vote's greatest probability, ``max_c p_c``: [U, N] of log-probabilities [U, N, C]."""
    return logprobs.amax(-1).exp()


def entropy(logprobs: Tensor) -> Tensor:
    """Return each vote's missing entropy, ``1 - H(p) / log C``: [U, N] of log-probabilities [U, N, C].

    1 where a vote is one-hot, 0 where it is uniform: a voter who knows nothing is not received.
    """
    h = -torch.where(logprobs == -math.inf, 0.0, logprobs.exp() * logprobs).sum(-1)
    return (1 - h / math.log(max(logprobs.shape[-1], 2))).clamp(0, 1)


def examples(counts: Sequence[int]) -> Tensor:
    """Return each voter's number of training samples ``n_u`` [U]; 1 for all clients if no client has any."""
    weight = torch.tensor(counts, dtype=torch.float64)
    return weight if bool(weight.any()) else torch.ones_like(weight)


def label_count(counts: Tensor) -> Tensor:
    """Return how many training samples of each class a voter has, ``n_uc``: [U, 1, C] of [U, C].

    By class, so for the mean of probabilities alone: what a voter says of a class counts by what it has seen of it.
    """
    return counts.unsqueeze(1)


def prior_softmax(accuracy: Tensor, temperature: float = 5.0) -> Tensor:
    """Return a committee's weights [U], ``softmax(a_u / T)`` over the voters, of accuracies *in percent* [U].

    CV-DD's committee voting (its code: T 5 where it makes images, 10 where it labels them). Reported
    accuracies are trusted, so this weight is not robust.

    Raises
    ------
    InvalidInputError
        If the temperature is not a number above 0.
    """
    if not 0 < temperature < math.inf:
        raise InvalidInputError(f"the committee's temperature is {temperature}; expected a number above 0")
    return (accuracy.double() / temperature).softmax(0)  # subtracts the greatest before it takes the exponential
