"""Rules that a few voters cannot pull where they want, in probability space.

With fewer than three voters on a sample no one can be outvoted, so there each of these rules is the mean of
probabilities; ``few_voters`` says where.
"""

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble.base import rule, shared_out
from fd_flower.ensemble.means import mean_of_probabilities

ENOUGH = 3
"""Voters on a sample from which a rule can be robust."""

NEARLY_HALF = 0.5 - 1e-6
"""The trimming that leaves the middle of the votes alone."""


def few_voters(mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return on which samples, bool [N], somebody's vote counts and fewer than three do.

    Parameters
    ----------
    mask : Tensor
        Who voted on which sample, bool [U, N].
    weight : Tensor | None
        [U] or [U, N]; a vote of weight 0 does not count.
    """
    if weight is not None:
        mask = mask & ((weight.unsqueeze(1) if weight.dim() == 1 else weight) > 0)
    voters = mask.sum(0)
    return (voters > 0) & (voters < ENOUGH)


@rule
def median(logprobs: Tensor, mask: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Take each class's median probability and normalize; of an even number the mean of the two middle ones.

    Parameters
    ----------
    logprobs : Tensor
        [U, N, C], normalized; -inf is a class that the voter rules out.
    mask : Tensor
        Who voted on which sample, bool [U, N].
    weight : Tensor | None
        How much a vote counts, [U] or [U, N], not negative: the median is where half of the weight lies on either
        side; None: equally.

    Returns
    -------
    tuple[Tensor, Tensor]
        Log-probabilities [N, C] and validity, bool [N]. Where every class's median is 0 (sure voters who disagree)
        there is nothing to normalize, and the row is the mean of probabilities.

    Raises
    ------
    InvalidInputError
        If the shapes do not fit together or a vote's weight is negative or not finite.
    """
    return trimmed_mean(logprobs, mask, weight, trim=NEARLY_HALF)


@rule
def trimmed_mean(
    logprobs: Tensor, mask: Tensor, weight: Tensor | None = None, *, trim: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Average each class's probabilities without the lowest and the highest, and normalize.

    The votes stand side by side in the order of their probabilities, each as wide as its share; what lies in the
    first or last ``trim`` of that width is cut off. Of ten equal votes and 0.2 these are the two lowest and the two
    highest; of four, the outer ones keep a fifth of their width each. 0 is the plain mean.

    Parameters
    ----------
    logprobs : Tensor
        [U, N, C], normalized; -inf is a class that the voter rules out.
    mask : Tensor
        Who voted on which sample, bool [U, N].
    weight : Tensor | None
        How much a vote counts, [U] or [U, N], not negative; None: equally.
    trim : float
        Share of the votes that is cut off at each end, at least 0 and below 0.5.

    Returns
    -------
    tuple[Tensor, Tensor]
        Log-probabilities [N, C] and validity, bool [N]. Where nothing but zeros is left in every class (sure voters
        who disagree) the row is the mean of probabilities.

    Raises
    ------
    InvalidInputError
        If ``trim`` is out of range, the shapes do not fit together or a vote's weight is negative or not finite.
    """
    if not 0 <= trim < 0.5:
        raise InvalidInputError(f"trim is {trim}; expected a share of the votes, at least 0 and below 0.5")
    shares = shared_out(logprobs, mask, weight)
    values, order = logprobs.double().exp().masked_fill(shares.unsqueeze(2) == 0, 0.0).sort(0)
    width = shares.unsqueeze(2).expand_as(order).gather(0, order)
    end = width.cumsum(0)
    kept = end.clamp(trim, 1 - trim) - (end - width).clamp(trim, 1 - trim)
    return _or_mean((values * kept).sum(0), shares, logprobs, mask, weight)


@rule
def rank_vote(logprobs: Tensor, mask: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Give a voter's last class one point, the next two, and so on up to C, and normalize the points (Borda's count).

    Ties share their points. How sure a voter is does not matter, so the result is flat, 2 / (C + 1) for a class that
    all clients rank first: as a teacher it needs sharpening.

    Parameters
    ----------
    logprobs : Tensor
        [U, N, C], or logits: only their order within a row matters.
    mask : Tensor
        Who voted on which sample, bool [U, N].
    weight : Tensor | None
        How much a vote counts, [U] or [U, N], not negative; None: equally.

    Returns
    -------
    tuple[Tensor, Tensor]
        Log-probabilities [N, C] and validity, bool [N].

    Raises
    ------
    InvalidInputError
        If the shapes do not fit together or a vote's weight is negative or not finite.
    """
    shares = shared_out(logprobs, mask, weight)
    votes = logprobs.masked_fill(shares.unsqueeze(2) == 0, 0.0).contiguous()
    ranked = votes.sort(2).values
    below, up_to = torch.searchsorted(ranked, votes), torch.searchsorted(ranked, votes, right=True)
    points = (below + up_to + 1).double() / 2  # the mean of the places that this class and its equals take
    return _or_mean((points * shares.unsqueeze(2)).sum(0), shares, logprobs, mask, weight)


def _or_mean(
    scores: Tensor, shares: Tensor, logprobs: Tensor, mask: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Normalize scores [N, C]; the mean of probabilities where there are too few voters or nothing to normalize."""
    mean, valid = mean_of_probabilities(logprobs, mask, weight)
    total = scores.sum(1, keepdim=True)
    robust = ((shares > 0).sum(0) >= ENOUGH).unsqueeze(1) & (total > 0)
    return torch.where(robust, (scores / torch.where(robust, total, 1.0)).log().to(mean.dtype), mean), valid
