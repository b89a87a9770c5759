"""Steps without a gradient: along random directions that are known by their numbers, so that steps can be replayed."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from fd_flower.core.rng import torch_rng


def learning(module: Module) -> list[Parameter]:
    """Return the parameters that learn, in their order."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


@torch.no_grad()
def advance(parameters: Sequence[Parameter], seed: int, direction: int, by: float) -> None:
    """Add ``by`` times a direction to parameters, in place.

    Parameters
    ----------
    parameters : Sequence[Parameter]
        What learns.
    seed : int
        ``run.seed``.
    direction : int
        The number of the direction: standard normal numbers, drawn on the CPU so that all devices have the same.
    by : float
        How far.
    """
    rng = torch_rng(seed, "direction", str(direction))
    for parameter in parameters:
        normal = torch.randn(parameter.shape, generator=rng)
        parameter.add_(normal.to(parameter.device, parameter.dtype), alpha=by)


def replay(parameters: Sequence[Parameter], seed: int, directions: Tensor, scalars: Tensor) -> None:
    """Take steps again: along each direction [n] by minus its scalar [n], in their order; a scalar of 0 is no step."""
    for direction, scalar in zip(directions.tolist(), scalars.tolist(), strict=True):
        if scalar:
            advance(parameters, seed, direction, -scalar)


@torch.no_grad()
def slope(
    loss: Callable[[], Tensor], parameters: Sequence[Parameter], seed: int, direction: int, eps: float
) -> tuple[float, float]:
    """Return the slope along a direction, ``(L(w + eps z) - L(w - eps z)) / (2 eps)``, and the mean of both losses.

    The parameters are as before, bit for bit: adding and taking away again would not leave them so.
    """
    before = [parameter.clone() for parameter in parameters]
    found = []
    for sign in (1, -1):
        advance(parameters, seed, direction, sign * eps)
        found.append(float(loss()))
        for parameter, kept in zip(parameters, before, strict=True):
            parameter.copy_(kept)
    return (found[0] - found[1]) / (2 * eps), (found[0] + found[1]) / 2
