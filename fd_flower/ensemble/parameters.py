"""Means of models, and steps between them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def mean_of_parameters(states: Sequence[Mapping[str, Tensor]], examples: Sequence[float]) -> dict[str, Tensor]:
    """Return the weighted mean of state dicts of one architecture.

    Parameters
    ----------
    states : Sequence[Mapping[str, Tensor]]
        One state dict a client, all with the same keys and shapes.
    examples : Sequence[float]
        Their weights, normalized by their sum; if all are 0, every client counts the same.

    Returns
    -------
    dict[str, Tensor]
        Floating tensors (batch normalization's running statistics too) are averaged in float64; whole numbers
        (batches seen) are the largest.
    """
    weights = torch.tensor([float(n) for n in examples], dtype=torch.float64)
    if float(weights.sum()) == 0.0:
        weights = torch.ones_like(weights)
    weights = weights / weights.sum()
    mean = {}
    for key, first in states[0].items():
        if first.is_floating_point():
            total = torch.zeros(first.shape, dtype=torch.float64)
            for weight, state in zip(weights, states, strict=True):
                # `double` matters: a weight has no dimension, so the product would be taken in the state's own type.
                total += weight * state[key].double()
            mean[key] = total.to(first.dtype)
        else:
            mean[key] = torch.stack([state[key] for state in states]).amax(0)
    return mean


def toward(start: Mapping[str, Tensor], end: Mapping[str, Tensor], step: float) -> dict[str, Tensor]:
    """Return what lies ``step`` of the way from one state to another, by the keys of the first, in its types."""
    return {key: torch.lerp(tensor.double(), end[key].double(), step).to(tensor.dtype) for key, tensor in start.items()}
