"""An optimizer whose state is kept from a client's turn to its next one."""

import torch
from torch.nn import Module, Parameter

from fd_flower.client.turn import Turn
from fd_flower.training import optimizer_of

KINDS = ("momentum_buffer", "exp_avg", "exp_avg_sq", "step")
"""What SGD, Adam and AdamW keep of a parameter."""


def recalled(turn: Turn, model: Module) -> torch.optim.Optimizer:
    """Return the optimizer of private training, at this round's learning rate, with what it kept of a model."""
    optimizer = optimizer_of(model, turn.plan)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for number, (name, parameter) in enumerate(_learning(model)):
        kept = {kind: turn.recall(f"optimizer/{name}/{kind}") for kind in KINDS}
        if found := {kind: tensor.clone() for kind, tensor in kept.items() if tensor is not None}:
            state[number] = found
        elif turn.plan.momentum and turn.plan.optimizer == "sgd":  # its fused step takes buffers of all or of none
            state[number] = {"momentum_buffer": torch.zeros_like(parameter)}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return optimizer


def remember(turn: Turn, model: Module, optimizer: torch.optim.Optimizer) -> None:
    """Keep what the optimizer knows of a model's parameters for the client's next turn."""
    names = [name for name, _ in _learning(model)]
    for number, kept in optimizer.state_dict()["state"].items():
        for kind in KINDS:
            if isinstance(tensor := kept.get(kind), torch.Tensor):
                turn.remember(f"optimizer/{names[number]}/{kind}", tensor.detach())


def _learning(model: Module) -> list[tuple[str, Parameter]]:
    """Return the parameters that learn, with their names, in the optimizer's order."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
