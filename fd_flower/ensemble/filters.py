"""Which ensembled predictions are fit to teach."""

import math

import torch
from torch import Tensor


def ambiguity(logprobs: Tensor) -> Tensor:
    """Return how far each prediction is from a sure one [N]: 0 where it is one-hot, 2 (1 - 1/C) where uniform.

    The L1 distance between the probabilities [N, C] and the one-hot of their likeliest class. What is missing at that
    class is spread over the others, so this is 2 (1 - max p).
    """
    return 2 * (1 - logprobs.amax(1).exp())


def joint_confidence(student: Tensor, teacher: Tensor, share: float) -> Tensor:
    """Return the samples of each predicted class of which student and teacher together are most certain, int64 [M].

    KD3's selection (Tang et al. 2023, arXiv 2307.11469) in our form; the abstract was read. A sample is as certain as
    the likeliest class of ``(p_student + p_teacher) / 2``, and it counts for that class. Of n samples of a class
    ``ceil(share n)`` are returned, of equals the first; rows rise.

    Parameters
    ----------
    student, teacher : Tensor
        Log-probabilities [N, C].
    share : float
        Above 0, at most 1: all of them.
    """
    certainty, classes = ((student.double().exp() + teacher.double().exp()) / 2).max(1)
    kept = []
    for found in classes.unique():
        rows = (classes == found).nonzero().flatten()
        best = certainty[rows].argsort(descending=True, stable=True)
        kept.append(rows[best[: math.ceil(share * len(rows) - 1e-9)]])
    return torch.cat([classes.new_zeros(0), *kept]).sort().values
