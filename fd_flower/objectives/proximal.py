"""Terms about parameters alone: FedProx's (Li et al. 2020, arXiv 1812.06127), and corrections of gradients."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import Module, Parameter


def learning(model: Module) -> list[Parameter]:
    """Return the parameters of a model that learn, in their order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def named_learning(model: Module) -> list[tuple[str, Parameter]]:
    """Return the parameters of a model that learn, with their names, in the order of ``learning``."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def proximal(model: Module, begun: Sequence[Tensor], mu: float) -> Tensor:
    """Return ``mu / 2`` times the squared distance of all that learns to ``begun`` (as ``learning``); a scalar."""
    distance: Any = sum((own - server).square().sum() for own, server in zip(learning(model), begun, strict=True))
    return mu / 2 * distance


def with_gradient(parameters: Sequence[Parameter], gradients: Sequence[Tensor]) -> Tensor:
    """Return a scalar that is 0, and whose gradient in each parameter is given, at any values of the parameters."""
    inner: Any = sum((own * gradient).sum() for own, gradient in zip(parameters, gradients, strict=True))
    return inner - inner.detach()
