"""The network that a kept model's weights are of."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from fd_flower import models
from fd_flower.core.errors import InvalidInputError
from fd_flower.tasks.described import load_task
from fd_flower.tasks.probe import materialize


def classifier(about: Mapping[str, Any], tensors: Mapping[str, Tensor], network: Module | None = None) -> Module:
    """Return a model with its weights, on the CPU, in evaluation mode; ``network``: one to put them into.

    Raises
    ------
    InvalidInputError
        Where its network cannot be built, or is another than the weights are of.
    """
    model = network or _built(about)
    shape = about.get("input", {}).get("shape")
    if shape is not None:
        materialize(about["architecture"], model, lambda: torch.zeros(1, *shape))
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise InvalidInputError(
            f"the weights are of another network than {type(model).__qualname__} ("
            f"{' '.join(str(error).split())[:300]}): give the one that the run had"
        ) from None
    return model.eval()


def _built(about: Mapping[str, Any]) -> Module:
    shape = about.get("input", {}).get("shape")
    if about["named"]:
        return load_task(about["named"]).model(about["architecture"])
    if not about["architecture"] or shape is None:
        raise InvalidInputError(
            f"the network {about['network']} is of a task that the run has no name for: "
            "fd_flower.load(..., network=Net()) takes yours"
        )
    return models.build(
        about["architecture"],
        tuple(shape),
        about["outputs"],
        about["features"],
        seed=0,
        weights=about["weights"],
        filled=False,
    )
