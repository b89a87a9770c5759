"""An optimizer whose state is kept from a client's turn to its next one."""

import torch
from torch.nn import Module

from fd_flower.client.turn import Turn
from fd_flower.objectives.proximal import named_learning
from fd_flower.training import Optimizer, optimizer_of

KINDS = ("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step")
"""What SGD, Adam, AdamW and AMSGrad keep of a parameter."""


def recalled(turn: Turn, model: Module) -> Optimizer:
    """Return the optimizer of private training, at this round's learning rate, with what it kept of a model."""
    optimizer = optimizer_of(model, turn.plan)
    for state, (name, parameter) in zip(optimizer.state, named_learning(model), strict=True):
        kept = {kind: turn.recall(f"optimizer/{name}/{kind}") for kind in KINDS}
        if found := {kind: tensor.clone() for kind, tensor in kept.items() if tensor is not None}:
            state.update({kind: tensor.to(parameter.device) for kind, tensor in found.items()})
        elif turn.plan.momentum and turn.plan.optimizer == "sgd":  # its fused step takes buffers of all or of none
            state["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def remember(turn: Turn, model: Module, optimizer: Optimizer) -> None:
    """Keep what the optimizer knows of a model's parameters for the client's next turn."""
    for state, (name, _) in zip(optimizer.state, named_learning(model), strict=True):
        for kind, tensor in state.items():
            turn.remember(f"optimizer/{name}/{kind}", tensor)
