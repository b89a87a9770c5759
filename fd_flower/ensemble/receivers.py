"""An own prediction for every receiver, each with its own weights of the same voters."""

from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble.base import Rule


def for_receivers(rule: Rule, logprobs: Tensor, mask: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Fuse the votes once a receiver.

    Parameters
    ----------
    rule : Rule
        Any rule.
    logprobs : Tensor
        [U, N, C]
    mask : Tensor
        Who voted on which sample, bool [U, N].
    weight : Tensor
        How much a vote counts to a receiver, [R, U] or [R, U, N].

    Returns
    -------
    tuple[Tensor, Tensor]
        Log-probabilities [R, N, C] and validity, bool [R, N].

    Raises
    ------
    InvalidInputError
        If the shapes do not fit together or a vote's weight is negative or not finite.
    """
    voters = mask.shape[0]
    if weight.dim() not in (2, 3) or weight.shape[1] != voters:
        raise InvalidInputError(
            f"the receivers' weights have shape {list(weight.shape)};"
            f" expected [receivers, {voters}] or [receivers, {voters}, samples]"
        )
    fused, valid = logprobs.new_empty(len(weight), *logprobs.shape[1:]), mask.new_empty(len(weight), mask.shape[1])
    for receiver, own in enumerate(weight):  # one at a time: all at once would take R times the votes' memory
        fused[receiver], valid[receiver] = rule(logprobs, mask, own)
    return fused, valid
