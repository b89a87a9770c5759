"""Rules that weigh votes by how far they lie from the others, in probability space."""

import math

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble.base import rule, shared_out
from fd_flower.ensemble.means import mean_of_probabilities
from fd_flower.ensemble.robust import few_voters

NEAR = 1e-6
"""The least distance that is divided by, which makes the iteration smooth where it meets a vote (RFA's remedy)."""

STEPS = 200
"""The iterations after which it stops in any case."""


@rule
def geometric_median(logprobs: Tensor, mask: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Take the point whose distances to the votes have the least sum, by Weiszfeld's iteration.

    Distances are Euclidean, between rows of probabilities, sample by sample. As the smoothed one of RFA (Pillutla et
    al. 2022), but of predictions.

    Parameters
    ----------
    logprobs : Tensor
        [U, N, C], normalized; -inf is a class that the voter rules out.
    mask : Tensor
        Who voted on which sample, bool [U, N].
    weight : Tensor | None
        How much a vote counts, [U] or [U, N], not negative; None: equally.

    Returns
    -------
    tuple[Tensor, Tensor]
        Log-probabilities [N, C] and validity, bool [N]. Samples with fewer than three voters have the mean of
        probabilities.

    Raises
    ------
    InvalidInputError
        If the shapes do not fit together or a vote's weight is negative or not finite.
    """
    shares = shared_out(logprobs, mask, weight).unsqueeze(2)
    probs = logprobs.double().exp().masked_fill(shares == 0, 0.0)
    center = (shares * probs).sum(0)
    for _ in range(STEPS):
        near = shares / (probs - center).norm(dim=2, keepdim=True).clamp(min=NEAR)
        total = near.sum(0)
        moved = (near * probs).sum(0) / torch.where(total > 0, total, 1.0)
        still = bool((moved - center).abs().amax() < NEAR / 10) if moved.numel() else True
        center = moved
        if still:
            break
    mean, valid = mean_of_probabilities(logprobs, mask, weight)
    averaged = few_voters(mask, weight) | ~valid
    return torch.where(averaged.unsqueeze(1), mean, center.log().to(mean.dtype)), valid


@rule
def multi_krum(
    logprobs: Tensor, mask: Tensor, weight: Tensor | None = None, *, tolerate: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Average the probabilities of the clients who lie closest to others, and leave out as many as may attack.

    Multi-Krum (Blanchard et al. 2017) of predictions. Of U voters, f = ceil(``tolerate`` U) may attack. A voter's
    score is the sum of its distances to the U - f - 2 nearest others; the U - f voters with the lowest scores are
    averaged. The distance of two voters is the mean squared Euclidean distance of their probabilities over the samples
    on which both voted; those who share none are infinitely far apart.

    Parameters
    ----------
    logprobs : Tensor
        [U, N, C], normalized; -inf is a class that the voter rules out.
    mask : Tensor
        Who voted on which sample, bool [U, N].
    weight : Tensor | None
        How much a vote counts in the average, [U] or [U, N], not negative; None: equally. A voter whose votes all have
        weight 0 is no voter.
    tolerate : float
        Share of the voters who may attack, at least 0 and below 0.5.

    Returns
    -------
    tuple[Tensor, Tensor]
        Log-probabilities [N, C] and validity, bool [N]: a sample on which only voters who are left out voted is not
        valid. With too few voters for a score (U - f - 2 below 1), all are averaged.

    Raises
    ------
    InvalidInputError
        If ``tolerate`` is out of range, the shapes do not fit together or a vote's weight is negative or not finite.
    """
    if not 0 <= tolerate < 0.5:
        raise InvalidInputError(f"tolerate is {tolerate}; expected a share of the voters, at least 0 and below 0.5")
    counts = shared_out(logprobs, mask, weight) > 0
    voters = counts.any(1).nonzero()[:, 0]
    may_attack = math.ceil(tolerate * len(voters) - 1e-9)
    nearest = len(voters) - may_attack - 2
    if nearest >= 1:
        apart = _squared_distances(logprobs[voters].double().exp(), counts[voters])
        scores = apart.fill_diagonal_(math.inf).sort(1).values[:, :nearest].sum(1)
        voters = voters[scores.argsort(stable=True)[: len(voters) - may_attack]]
    chosen = torch.zeros_like(mask)
    chosen[voters] = mask[voters]
    return mean_of_probabilities(logprobs, chosen, weight)


@rule
def agreement(
    logprobs: Tensor, mask: Tensor, weight: Tensor | None = None, *, power: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Average the probabilities, each vote weighted by how much it overlaps with all votes on the sample.

    The overlap of two votes is the probability that they share, ``sum_c min(p_c, q_c)``: 1 for equal ones, 0 for sure
    voters who disagree. A vote counts by its mean overlap with all votes, its own among them, to the power of
    ``power``. The rule is our own.

    Parameters
    ----------
    logprobs : Tensor
        [U, N, C], normalized; -inf is a class that the voter rules out.
    mask : Tensor
        Who voted on which sample, bool [U, N].
    weight : Tensor | None
        How much a vote counts besides, in the mean overlap and in the average, [U] or [U, N], not negative; None:
        equally.
    power : float
        Sharpness, not negative; 0 is the mean of probabilities.

    Returns
    -------
    tuple[Tensor, Tensor]
        Log-probabilities [N, C] and validity, bool [N]. Samples with fewer than three voters have the mean of
        probabilities, and so do those on which no two votes overlap.

    Raises
    ------
    InvalidInputError
        If ``power`` is negative or not finite, the shapes do not fit together or a vote's weight is negative or not
        finite.
    """
    if not 0 <= power < math.inf:
        raise InvalidInputError(f"power is {power}; expected a number of 0 or more")
    shares = shared_out(logprobs, mask, weight)
    probs = logprobs.double().exp().masked_fill(shares.unsqueeze(2) == 0, 0.0)
    overlap = torch.zeros_like(shares)
    for place, own in enumerate(probs):  # one at a time: all at once would take U times the votes' memory
        overlap[place] = (shares * torch.minimum(probs, own).sum(2)).sum(0)
    mean, valid = mean_of_probabilities(logprobs, mask, weight)
    averaged = few_voters(mask, weight) | ~valid
    row, _ = mean_of_probabilities(logprobs, mask, torch.where(averaged, shares, shares * overlap.pow(power)))
    return torch.where(averaged.unsqueeze(1), mean, row), valid


def _squared_distances(probs: Tensor, counts: Tensor) -> Tensor:
    """Return the mean squared distances [U, U] of probabilities [U, N, C] over the samples that count for both."""
    voted = counts.double()
    probs = probs.masked_fill(~counts.unsqueeze(2), 0.0)
    squares, flat = probs.square().sum(2), probs.flatten(1)
    both = voted @ voted.T
    crossed = squares @ voted.T
    total = (crossed + crossed.T - 2 * flat @ flat.T).clamp(min=0)
    return (total / both.clamp(min=1)).masked_fill(both == 0, math.inf)
