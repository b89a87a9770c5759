"""What an ensembling rule is, and the steps that rules share."""

import math
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from fd_flower.core.errors import InvalidInputError


class Rule(Protocol):
    """Makes one prediction of many voters'."""

    def __call__(self, logprobs: Tensor, mask: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return log-probabilities [N, C] and validity [N].

        Parameters
        ----------
        logprobs : Tensor
            [U, N, C], normalized; -inf is a class that the voter rules out.
        mask : Tensor
            Who voted on which sample, bool [U, N].
        weight : Tensor | None
            How much a vote counts, [U] or [U, N], not negative; None: equally.

        Raises
        ------
        InvalidInputError
            If the shapes do not fit together or a vote's weight is negative or not finite.
        """


R = TypeVar("R", bound=Callable[..., tuple[Tensor, Tensor]])
_RULES: list[Callable[..., Any]] = []


def rule(function: R) -> R:
    """Mark a rule that ``server.rule`` can name; its arguments after the first three are ``server.rule_args``."""
    _RULES.append(function)
    return function


def is_rule(value: object) -> bool:
    """Whether a function is marked by ``@rule``."""
    return any(value is marked for marked in _RULES)


def shared_out(logprobs: Tensor, mask: Tensor, weight: Tensor | None, *, classwise: bool = False) -> Tensor:
    """Return each vote's share of its sample, float64 [U, N], or [U, N, C] for weights by class.

    The shares of a sample (and class) add up to 1, or are all 0 where no vote counts. They are taken in float64
    so that equal weights of any size give, rounded to float32, the very shares that no weights give.

    Parameters
    ----------
    logprobs, mask, weight : Tensor
        As a rule has them; what the weights are where there is no vote is never looked at.
    classwise : bool
        Whether the rule can take weights by class, [U, 1, C] or [U, N, C].

    Raises
    ------
    InvalidInputError
        If the shapes do not fit together or a vote's weight is negative or not finite.
    """
    if logprobs.dim() != 3 or mask.shape != logprobs.shape[:2]:
        raise InvalidInputError(
            f"the votes have shape {list(logprobs.shape)} and their mask {list(mask.shape)};"
            " expected [voters, samples, classes] and [voters, samples]"
        )
    voted = mask.bool()
    if weight is None:
        counts = voted.double()
    else:
        weight = _fitting(weight, logprobs.shape, classwise=classwise)
        voted = voted.unsqueeze(2) if weight.dim() == 3 else voted
        counts = weight.double().masked_fill(~voted, 0.0)
        if not bool(((counts >= 0) & counts.isfinite()).all()):
            raise InvalidInputError("a voter's weight is negative or not finite; expected 0 or more")
    total = counts.sum(0)
    return counts / torch.where(total > 0, total, 1.0)


def _fitting(weight: Tensor, votes: torch.Size, *, classwise: bool) -> Tensor:
    """Return weights as [U, N], or [U, N, C] for those by class."""
    voters, samples, classes = votes
    if weight.shape == votes[:1]:
        return weight.unsqueeze(1).expand(voters, samples)
    if weight.shape == votes[:2]:
        return weight
    if weight.dim() == 3 and not classwise:
        raise InvalidInputError(
            f"the weights have shape {list(weight.shape)}, by class; mean_of_probabilities alone can take these,"
            " this rule takes one a voter or a vote"
        )
    if weight.shape in (votes, (voters, 1, classes)):
        return weight.expand(votes)
    fitting = [list(votes[:1]), list(votes[:2])] + ([[voters, 1, classes], list(votes)] if classwise else [])
    expected = " or ".join(map(str, fitting))
    raise InvalidInputError(f"the weights have shape {list(weight.shape)}; expected {expected}")


def or_uniform(logprobs: Tensor, valid: Tensor) -> Tensor:
    """Return ``logprobs`` [N, C] with every row that is not valid [N] made uniform."""
    return torch.where(valid.unsqueeze(1), logprobs, -math.log(logprobs.shape[1]))
