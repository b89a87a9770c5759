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
    shape, kind = about.get("input", {}).get("shape"), about.get("input", {}).get("type", "uint8")
    task = load_task(about["named"]) if about["named"] else None
    if task is not None and task.rows is None:
        return task.model(about["architecture"])
    own = None if task is None or task.rows is None else task.rows.model
    if shape is None or not (own or about["architecture"]):
        raise InvalidInputError(
            f"the network {about['network']} is of a task that the run has no name for: "
            "fd_flower.load(..., network=Net()) takes yours"
        )
    shape, dtype = tuple(shape), torch.float32 if kind == "uint8" else getattr(torch, kind)
    outputs, features, head = about["outputs"], about["features"], about.get("head")
    if own is not None:
        made = models.called_with(own, shape, outputs, features)
        return (
            made if head is None else models.headed(made, head, outputs, features, torch.ones(1, *shape, dtype=dtype))
        )
    name, weights = about["architecture"], about["weights"]
    return models.build(name, shape, outputs, features, seed=0, weights=weights, dtype=dtype, head=head, filled=False)
