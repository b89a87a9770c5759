"""What noise has left of probabilities, made probabilities again."""

import torch
from torch import Tensor


def nearest_probabilities(values: Tensor) -> Tensor:
    """Return for each row of numbers [N, C] the probabilities [N, C] nearest to it (Duchi et al. 2008, figure 1).

    Of probabilities with independent Gaussian noise of one size this is the maximum likelihood estimate.
    """
    ranked = values.sort(dim=1, descending=True).values
    ranks = torch.arange(1, values.shape[1] + 1, dtype=values.dtype)
    excess = (ranked.cumsum(1) - 1) / ranks
    kept = (ranked > excess).sum(1, keepdim=True)
    return (values - excess.gather(1, kept - 1)).clamp_min(0.0)
