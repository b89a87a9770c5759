"""Which ensembled predictions are fit to teach."""

from torch import Tensor


def ambiguity(logprobs: Tensor) -> Tensor:
    """Return how far each prediction is from a sure one [N]: 0 where it is one-hot, 2 (1 - 1/C) where uniform.

    The L1 distance between the probabilities [N, C] and the one-hot of their likeliest class. What is missing at that
    class is spread over the others, so this is 2 (1 - max p).
    """
    return 2 * (1 - logprobs.amax(1).exp())
