"""Sharpness-aware minimization (Foret et al. 2020, arXiv 2010.01412): gradients from where the loss is higher nearby.

What a loss collects of a mini-batch besides (``fd``'s table, say) belongs to the first of its two passes alone, which
``climbing`` tells from the second.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from fd_flower.objectives.proximal import with_gradient
from fd_flower.training.steps import uncounted
from fd_flower.training.together import parts

TINY = 1e-12
"""What is added to a gradient's norm before it divides."""

_climbing: ContextVar[bool] = ContextVar("climbing", default=False)


def climbing() -> bool:
    """Whether a loss is under way for the second time on its mini-batch, at weights that no step leads to."""
    return _climbing.get()


def sharp(objective: Callable[..., Tensor], rho: float) -> Callable[..., Tensor]:
    """Return an objective with the value of another, and with the gradient that it has ``rho`` up its slope.

    With g the gradient at the weights w, the gradient is that at w + rho g / ||g||; of models that are ``Together``,
    each moves by its own norm, all at once. Weights, and buffers such as running statistics, are what the first pass
    leaves. It costs two passes forward and two backward.

    Parameters
    ----------
    objective : Callable[..., Tensor]
        ``(model, x, y, ...)`` -> scalar loss. Where another term is added to its result, the sum is to be made after
        this one was called: it moves the weights, and brings them back, in place.
    rho : float
        How far, above 0.
    """

    def aware(model: Module, *batch: Any) -> Tensor:
        groups = [[p for p in part.parameters() if p.requires_grad] for part in parts(model)]
        learned = [parameter for group in groups for parameter in group]
        loss = objective(model, *batch)
        slopes = dict(zip(learned, torch.autograd.grad(loss, learned, allow_unused=True), strict=True))
        with _moved(model, [_ascent({p: slopes[p] for p in group}, rho) for group in groups]), uncounted():
            found = torch.autograd.grad(objective(model, *batch), learned, allow_unused=True)
        known = [(parameter, slope) for parameter, slope in zip(learned, found, strict=True) if slope is not None]
        return loss.detach() + with_gradient([p for p, _ in known], [slope for _, slope in known])

    return aware


def _ascent(slopes: dict[Parameter, Tensor | None], rho: float) -> dict[Parameter, Tensor]:
    """Return by how much each parameter moves: all together by a vector of norm ``rho`` up their slope."""
    known = {parameter: slope for parameter, slope in slopes.items() if slope is not None}
    if not known:
        return {}
    norm = torch.stack([slope.float().norm() for slope in known.values()]).norm()
    return {parameter: slope * (rho / (norm + TINY)) for parameter, slope in known.items()}


@contextmanager
def _moved(model: Module, ascents: Sequence[dict[Parameter, Tensor]]) -> Iterator[None]:
    """Hold parameters elsewhere inside; they and all buffers are what they were, bit for bit, after it."""
    steps = {parameter: step for ascent in ascents for parameter, step in ascent.items()}
    kept = [(tensor, tensor.detach().clone()) for tensor in (*steps, *model.buffers())]
    token = _climbing.set(True)
    try:
        with torch.no_grad():
            for parameter, step in steps.items():
                parameter.add_(step)
        torch.clear_autocast_cache()  # it holds weights in bfloat16, by object and not by value
        yield
    finally:
        with torch.no_grad():
            for tensor, before in kept:
                tensor.copy_(before)
        torch.clear_autocast_cache()
        _climbing.reset(token)
