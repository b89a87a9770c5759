"""The two plain means: of probabilities (arithmetic) and of logits (geometric)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fd_flower.errors import WrongInput
from fd_flower.objectives.base import floored


def mean_of_probabilities(logprobs: Tensor, mask: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Average the voters' probabilities: a class that one voter is sure of stays likely.

    Parameters
    ----------
    logprobs : Tensor
        [U, N, C], normalised; -inf is a class that the voter rules out.
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
    WrongInput
        If the shapes do not fit together or a weight is negative or not finite.
    """
    shares, valid = _shares(logprobs, mask, weight)
    votes = logprobs.masked_fill(shares.unsqueeze(2) == 0, -math.inf)
    return _or_uniform((votes + shares.log().unsqueeze(2)).logsumexp(0), valid), valid


def mean_of_logits(logprobs: Tensor, mask: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Average the voters' log-probabilities and normalise: a class that one voter doubts becomes unlikely.

    This is the softmax of their mean logits and, equally, the normalised geometric mean of their probabilities.
    A ruled-out class counts as ``objectives.base.floored`` has it: else two voters who are sure of different
    classes would leave none.

    Parameters
    ----------
    logprobs : Tensor
        [U, N, C], normalised or as logits: a number added to a row changes nothing.
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
    WrongInput
        If the shapes do not fit together or a weight is negative or not finite.
    """
    shares, valid = _shares(logprobs, mask, weight)
    votes = floored(logprobs).masked_fill(shares.unsqueeze(2) == 0, 0.0)
    return _or_uniform(F.log_softmax((votes * shares.unsqueeze(2)).sum(0), dim=1), valid), valid


def _shares(logprobs: Tensor, mask: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return each vote's share of its sample [U, N] (0 where there is no vote), and who has any vote [N]."""
    if logprobs.dim() != 3 or mask.shape != logprobs.shape[:2]:
        raise WrongInput(
            f"the votes have shape {list(logprobs.shape)} and their mask {list(mask.shape)};"
            " expected [voters, samples, classes] and [voters, samples]"
        )
    counts = mask.to(logprobs.dtype)
    if weight is not None:
        if weight.shape not in (mask.shape, mask.shape[:1]):
            raise WrongInput(
                f"the weights have shape {list(weight.shape)}; expected {list(mask.shape[:1])} or {list(mask.shape)}"
            )
        if not bool(((weight >= 0) & weight.isfinite()).all()):
            raise WrongInput("a voter's weight is negative or not finite; expected 0 or more")
        weight = weight.to(counts)
        counts = counts * (weight.unsqueeze(1) if weight.dim() == 1 else weight)
    total = counts.sum(0)
    valid = total > 0
    return counts / torch.where(valid, total, torch.ones_like(total)), valid


def _or_uniform(logprobs: Tensor, valid: Tensor) -> Tensor:
    """Return ``logprobs`` [N, C] with every row that is not valid [N] made uniform."""
    return torch.where(valid.unsqueeze(1), logprobs, -math.log(logprobs.shape[1]))
