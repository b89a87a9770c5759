"""Optimizers of the models that learn: SGD, Adam and AdamW by PyTorch's functions, and AMSGrad.

Its classes do the same, but the first of them that is made imports PyTorch's compiler: over a second of CPU time, which
a device would pay with every message.
"""

from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from fd_flower.training.steps import stepped

Options = dict[str, Any]

AMSGRAD = (0.9, 0.99, 1e-3)
"""AMSGrad's coefficients of the moving averages of gradients and of their squares, and its smallest divisor."""


@final
class Optimizer:
    """Steps parameters bit for bit as ``torch.optim.SGD``, ``Adam`` or ``AdamW`` with ``fused=True``, or by AMSGrad.

    AMSGrad (Reddi et al. 2018, arXiv 1904.09237) divides by the root of the largest moving average of squares that
    there has been. In difference to PyTorch's, first steps are not corrected, so that its state can be averaged.

    Attributes
    ----------
    lr : float
        Learning rate of the next step.
    state : list[dict[str, Tensor]]
        What is kept of each parameter, under PyTorch's names; {} before its first gradient.
    """

    def __init__(
        self, parameters: Iterable[Parameter], kind: str, lr: float, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        self.lr = lr
        self._parameters = list(parameters)
        self.state: list[dict[str, Tensor]] = [{} for _ in self._parameters]
        self._kind, self._momentum, self._decay = kind, momentum, weight_decay

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Step the parameters that have a gradient, in place."""
        learned = [(p, kept) for p, kept in zip(self._parameters, self.state, strict=True) if p.grad is not None]
        parameters, state = [parameter for parameter, _ in learned], [kept for _, kept in learned]
        gradients = [parameter.grad for parameter in parameters]
        kinds = {"sgd": self._sgd, "amsgrad": self._amsgrad}
        kinds.get(self._kind, self._adam)(parameters, gradients, state)
        stepped()

    def _sgd(self, parameters: list[Any], gradients: list[Any], state: list[dict[str, Tensor]]) -> None:
        buffers: list[Any] = [kept.get("momentum_buffer") for kept in state] if self._momentum else []
        options: Options = {"lr": self.lr, "momentum": self._momentum, "weight_decay": self._decay, "dampening": 0.0}
        sgd(parameters, gradients, buffers, fused=True, nesterov=False, maximize=False, **options)
        for kept, buffer in zip(state, buffers, strict=False):
            kept["momentum_buffer"] = buffer

    def _adam(self, parameters: list[Any], gradients: list[Any], state: list[dict[str, Tensor]]) -> None:
        for parameter, kept in zip(parameters, state, strict=True):
            if not kept:
                kept["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                kept["exp_avg"], kept["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        means, squares, steps = ([kept[name] for kept in state] for name in ("exp_avg", "exp_avg_sq", "step"))
        options: Options = {"lr": self.lr, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": self._decay}
        switches: Options = {"fused": True, "amsgrad": False, "maximize": False}
        decoupled = self._kind == "adamw"
        adam(parameters, gradients, means, squares, [], steps, decoupled_weight_decay=decoupled, **options, **switches)

    def _amsgrad(self, parameters: list[Any], gradients: list[Any], state: list[dict[str, Tensor]]) -> None:
        first, second, least = AMSGRAD
        for parameter, gradient, kept in zip(parameters, gradients, state, strict=True):
            if not kept:
                kept["exp_avg"], kept["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                kept["max_exp_avg_sq"] = torch.full_like(parameter, least**2)
            slope = gradient.add(parameter, alpha=self._decay) if self._decay else gradient
            kept["exp_avg"].lerp_(slope, 1 - first)
            kept["exp_avg_sq"].mul_(second).addcmul_(slope, slope, value=1 - second)
            torch.maximum(kept["max_exp_avg_sq"], kept["exp_avg_sq"], out=kept["max_exp_avg_sq"])
            parameter.addcdiv_(kept["exp_avg"], kept["max_exp_avg_sq"].sqrt(), value=-self.lr)
