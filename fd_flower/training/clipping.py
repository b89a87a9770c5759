"""Bounds of gradients: of a model's norm, or unit by unit in proportion to the weights.

The second is adaptive gradient clipping (Brock et al. 2021, arXiv 2102.06171), which FedWon (2023) uses with models
that have no normalization.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.utils import clip_grad_norm_

from fd_flower.training.together import parts

FLOOR = 1e-3
"""Least norm of a unit's weights, so that weights that begin at zero can learn."""


def clipping(model: Module, bound: float, by: str) -> Callable[[], None]:
    """Return what clips a model's gradients in place: their norm (``norm``) or each unit's share (``unit``).

    Models that are ``Together`` are clipped one by one.
    """
    clip: Callable[[list[Parameter], float], object] = clip_units if by == "unit" else clip_grad_norm_
    models = [list(part.parameters()) for part in parts(model)]

    def clip_each() -> None:
        for parameters in models:
            clip(parameters, bound)

    return clip_each


@torch.no_grad()
def clip_units(parameters: Iterable[Parameter], share: float) -> None:
    """Scale each unit's gradient down to ``share`` times the norm of its weights, where it is larger, in place.

    A unit is what one output is made of: a row of a matrix, a filter of a convolution; a vector (biases, scales) is
    one.
    """
    for parameter in parameters:
        if parameter.grad is not None:
            most = share * unit_norms(parameter).clamp_min(FLOOR)
            norms = unit_norms(parameter.grad)
            parameter.grad.mul_((most / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_max(1.0))


def unit_norms(tensor: Tensor) -> Tensor:
    """Return the norm of each unit, with the tensor's dimensions: [O, 1, ...] of a tensor [O, ...], [] of a vector."""
    if tensor.dim() <= 1:
        return tensor.norm()
    return torch.linalg.vector_norm(tensor, dim=tuple(range(1, tensor.dim())), keepdim=True)
