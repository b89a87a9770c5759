"""The two plain means: of probabilities (arithmetic) and of logits (geometric)."""

import math

import torch.nn.functional as F
from torch import Tensor

from fd_flower.ensemble.base import or_uniform, rule, shared_out
from fd_flower.objectives.base import floored


@rule
def mean_of_probabilities(logprobs: Tensor, mask: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Average the voters' probabilities: a class that one voter is sure of stays likely.

    With weights by class, each class is averaged by its own, and the row is normalized again.

    Parameters
    ----------
    logprobs : Tensor
        [U, N, C], normalized; -inf is a class that the voter rules out.
    mask : Tensor
        Who voted on which sample, bool [U, N].
    weight : Tensor | None
        How much a vote counts, [U] or [U, N], or by class, [U, 1, C] or [U, N, C]; not negative; None: equally.

    Returns
    -------
    tuple[Tensor, Tensor]
        Log-probabilities [N, C] and validity, bool [N].

    Raises
    ------
    InvalidInputError
        If the shapes do not fit together or a vote's weight is negative or not finite.
    """
    shares = shared_out(logprobs, mask, weight, classwise=True).to(logprobs.dtype)
    shares = shares if shares.dim() == 3 else shares.unsqueeze(2)
    votes = logprobs.masked_fill(shares == 0, -math.inf)
    mean = (votes + shares.log()).logsumexp(0)
    mass = mean.logsumexp(1, keepdim=True)
    valid = mass.squeeze(1) > -math.inf
    return or_uniform(mean - mass if weight is not None and weight.dim() == 3 else mean, valid), valid


@rule
def mean_of_logits(logprobs: Tensor, mask: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Average the voters' log-probabilities and normalize: a class that one voter doubts becomes unlikely.

    This is the softmax of their mean logits and, equally, the normalized geometric mean of their probabilities.
    A ruled-out class counts as ``objectives.base.floored`` has it: else two voters who are sure of different
    classes would leave none.

    Parameters
    ----------
    logprobs : Tensor
        [U, N, C], normalized or as logits: a number added to a row changes nothing.
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
    shares = shared_out(logprobs, mask, weight).to(logprobs.dtype).unsqueeze(2)
    valid = (shares > 0).any(0).squeeze(1)
    votes = floored(logprobs).masked_fill(shares == 0, 0.0)
    return or_uniform(F.log_softmax((votes * shares).sum(0), dim=1), valid), valid


def softened_mean(logprobs: Tensor, temperature: float = 1.0) -> Tensor:
    """Average what all voters say once it is softened, and take the softening off again.

    The softmax of the result over T is the mean of the voters' softmax over T, so a loss at temperature T learns from
    the mean of softened probabilities. At T = 1 it is the mean of probabilities; as T grows, the mean of logits.

    Parameters
    ----------
    logprobs : Tensor
        [U, N, C]; -inf is a class that the voter rules out.
    temperature : float
        T, above 0.

    Returns
    -------
    Tensor
        Log-probabilities [N, C].
    """
    soft = F.log_softmax(logprobs / temperature, dim=2).logsumexp(0) - math.log(len(logprobs))
    return F.log_softmax(temperature * soft, dim=1)
