"""A linear head that the server trains on what clients send of their features, and that replaces their own heads."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear

from fd_flower.core.client import Client
from fd_flower.core.clients import kinds
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.server.method import Method
from fd_flower.training import Plan, train
from fd_flower.wire import Head


def first_head(method: Method[Any], clients: Sequence[Client]) -> Head:
    """Return the head that the first client's architecture starts from, a copy of it; all must have one like it."""
    check_heads(method, clients)
    start = method.first_weights(clients[0].model).values
    bias = start.get("head.bias")
    return Head(start["head.weight"].clone(), None if bias is None else bias.clone())


def check_heads(method: Method[Any], clients: Sequence[Client]) -> None:
    """Refuse models with and without a bias in their head, of those that are here: none could take the others'."""
    if not method.hosted:
        return
    biased = {c.model: "head.bias" in method.first_weights(c.model).values for c in kinds(clients)}
    if len(set(biased.values())) > 1:
        having, lacking = (next(name for name, has in biased.items() if has is which) for which in (True, False))
        raise InvalidInputError(
            f"{method.settings.method} exchanges heads; that of '{having}' has a bias, that of '{lacking}' has none: "
            "give all models a head with a bias, or none"
        )


def trained_head(
    head: Head,
    objective: Callable[..., Tensor],
    samples: Samples,
    teacher: Tensor | None,
    *,
    plan: Plan,
    rng: torch.Generator,
) -> tuple[Head, float]:
    """Return the head after training, and the mean loss.

    Parameters
    ----------
    head : Head
        Where it starts; it stays unchanged.
    objective : Callable[..., Tensor]
        ``(head, x, y)``, or ``(head, x, y, teacher)`` where a teacher is given, -> scalar loss.
    samples : Samples
        Features [N, F], with or without classes [N].
    teacher : Tensor | None
        One row a sample.
    plan, rng
        As in ``training.train``.
    """
    classes, features = head.weight.shape
    layer = Linear(features, classes, bias=head.bias is not None)
    layer.load_state_dict(head.tensors())
    layer.to(samples.x.device)
    loss = train(layer, objective, samples, teacher, plan=plan, rng=rng)
    return Head(*(tensor.detach().cpu().clone() for tensor in layer.parameters())), loss
