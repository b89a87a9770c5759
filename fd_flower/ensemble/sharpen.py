"""Sharpening: makes an ensembled prediction more confident than the mean of its voters."""

import math

import torch.nn.functional as F
from torch import Tensor

from fd_flower.core.errors import InvalidInputError


def entropy_reduction(logprobs: Tensor, temperature: float = 0.1) -> Tensor:
    """Return the softmax of the *probabilities* over the temperature, as log-probabilities (DS-FL's ERA).

    ``softmax(p / T)``, Itahara et al. 2020 (arXiv 2008.06180). Since a probability is at most 1, no class falls below
    ``exp(-1 / T)`` of the likeliest; T = 0.1 sharpens what is unsure and flattens what was more confident than that.

    Parameters
    ----------
    logprobs : Tensor
        [..., C]
    temperature : float
        T, above 0.

    Raises
    ------
    InvalidInputError
        If the temperature is not a number above 0.
    """
    if not 0 < temperature < math.inf:
        raise InvalidInputError(f"the temperature is {temperature}; expected a number above 0")
    return F.log_softmax(logprobs.exp() / temperature, dim=-1)


def enhanced_entropy_reduction(logprobs: Tensor, power: float = 1.0) -> Tensor:
    """Return probabilities to a power, normalized, as log-probabilities (SCARLET's enhanced ERA).

    ``p^b / sum p^b``, Azuma et al. 2025 (arXiv 2504.19602). A power above 1 sharpens, one below 1 flattens, 1 changes
    nothing; unlike under ``entropy_reduction`` a class that is ruled out stays ruled out.

    Parameters
    ----------
    logprobs : Tensor
        [..., C]
    power : float
        b, above 0.

    Raises
    ------
    InvalidInputError
        If the power is not a number above 0.
    """
    if not 0 < power < math.inf:
        raise InvalidInputError(f"the power is {power}; expected a number above 0")
    return F.log_softmax(power * logprobs, dim=-1)
