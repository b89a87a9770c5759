"""Gradient matching (Zhao et al. 2021, arXiv 2006.05929): samples that move a model as the real ones moved it."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module

from fd_flower.core.budget import each

Distance = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""Two lists of gradients, tensor by tensor of the same shapes -> a scalar."""


def rows(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """Return the sum of 1 - cos over the output rows of all weights; biases and norms (one dimension) add nothing.

    A row that is 0 on both sides adds 0, so that a list is at no distance from itself; on one side alone it adds 1.
    """
    total = one[0].new_zeros(())
    for a, b in zip(one, other, strict=True):
        if a.dim() > 1:
            a, b = a.flatten(1), b.flatten(1)
            alike = (F.normalize(a, dim=1) * F.normalize(b, dim=1)).sum(1)
            dead = (a == 0).all(1) & (b == 0).all(1)
            total = total + (1 - alike).masked_fill(dead, 0.0).sum()
    return total


def mse(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """Return the sum of squared differences; it sees the gradients' lengths, which the others do not."""
    return torch.stack([(a - b).square().sum() for a, b in zip(one, other, strict=True)]).sum()


def cos(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """Return 1 - cos of all gradients as one vector."""
    a, b = (torch.cat([tensor.flatten() for tensor in side]) for side in (one, other))
    return 1 - (F.normalize(a, dim=0) * F.normalize(b, dim=0)).sum()


DISTANCES: dict[str, Distance] = {"rows": rows, "mse": mse, "cos": cos}
"""Distances by name."""


def gradients(model: Module, x: Tensor, labels: Tensor, *, graph: bool = False) -> list[Tensor]:
    """Return the cross-entropy's gradient for each of the model's parameters that learn, in their order.

    Parameters
    ----------
    model : Module
        The model, in the mode that it is in: batch normalization takes its running statistics in evaluation mode.
    x, labels : Tensor
        [N, ...] and [N].
    graph : bool
        Whether to differentiate further, with respect to ``x``.
    """
    loss = F.cross_entropy(model(x), labels)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return list(torch.autograd.grad(loss, parameters, create_graph=graph, materialize_grads=True))


def matched(
    x: Tensor,
    labels: Tensor,
    model: Module,
    given: Sequence[Tensor],
    *,
    steps: int,
    lr: float,
    momentum: float,
    distance: str = "rows",
) -> tuple[Tensor, float, float]:
    """Move samples until the gradient that a model has on them is the given one.

    Parameters
    ----------
    x, labels : Tensor
        Samples [N, ...] and their classes [N].
    model : Module
        The model; it is put into evaluation mode, and no parameter of it is changed.
    given : Sequence[Tensor]
        A tensor a parameter, in their order.
    steps : int
        Steps of SGD on the samples.
    lr, momentum : float
        Of SGD.
    distance : str
        A name in ``DISTANCES``.

    Returns
    -------
    tuple[Tensor, float, float]
        The samples, and the distance before the first and before the last step; 0.0 without a step.
    """
    model.eval()
    x = x.detach().clone().requires_grad_()
    optimizer = torch.optim.SGD([x], lr, momentum=momentum)
    seen = []
    for _ in each(range(steps), steps):
        far = DISTANCES[distance](given, gradients(model, x, labels, graph=True))
        (x.grad,) = torch.autograd.grad(far, x)
        optimizer.step()
        seen.append(float(far.detach()))
    return x.detach(), *((seen[0], seen[-1]) if seen else (0.0, 0.0))
