"""FedProx's term (Li et al. 2020, arXiv 1812.06127), which holds a model near where it began."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import Module


def proximal(model: Module, begun: Sequence[Tensor], mu: float) -> Tensor:
    """Return ``mu / 2`` times the squared distance of all parameters to ``begun``, in their order; a scalar."""
    distance: Any = sum((own - server).square().sum() for own, server in zip(model.parameters(), begun, strict=True))
    return mu / 2 * distance
