"""What makes an ensembled prediction surer than its voters were together."""

import math

import torch.nn.functional as F
from torch import Tensor

from fd_flower.errors import WrongInput


def entropy_reduction(logprobs: Tensor, temperature: float = 0.1) -> Tensor:
    """Return the softmax of the *probabilities* over the temperature, as log-probabilities (DS-FL's ERA).

    ``softmax(p / T)``, Itahara et al. 2020 (arXiv 2008.06180). Since a probability is at most 1, no class falls below
    ``exp(-1 / T)`` of the likeliest; and T = 0.1 sharpens what is unsure and flattens what was surer than that.

    Parameters
    ----------
    logprobs : Tensor
        [..., C]
    temperature : float
        T, above 0.

    Raises
    ------
    WrongInput
        If the temperature is not a number above 0.
    """
    _positive("temperature", temperature)
    return F.log_softmax(logprobs.exp() / temperature, dim=-1)


def power(logprobs: Tensor, exponent: float = 2.0) -> Tensor:
    """Return the probabilities raised to a power and normalised, as log-probabilities.

    ``p^b / sum p^b``: a temperature of 1 / b on the log-probabilities. SCARLET's enhanced ERA (Azuma et al. 2025,
    arXiv 2504.19602) is of this form.

    Parameters
    ----------
    logprobs : Tensor
        [..., C]; -inf stays -inf.
    exponent : float
        b, above 0; above 1 sharpens.

    Raises
    ------
    WrongInput
        If the exponent is not a number above 0.
    """
    _positive("exponent", exponent)
    return F.log_softmax(logprobs * exponent, dim=-1)


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise WrongInput(f"the {name} is {value}; expected a number above 0")
