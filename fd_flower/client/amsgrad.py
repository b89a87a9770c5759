"""AMSGrad whose state is the mean of the clients' (FedLALR, Sun et al. 2023, arXiv 2309.09719)."""

from typing import Any

import torch
from flwr.app import RecordDict

from fd_flower.client.turn import Turn
from fd_flower.config import averages_moments
from fd_flower.objectives.proximal import named_learning
from fd_flower.training import AMSGRAD, optimizer_of
from fd_flower.wire import Moments

SQUARES = "amsgrad/squares"
"""Name in a client's memory: its own moving averages of squared gradients."""


def with_shared_moments(turn: Turn[Any], content: RecordDict) -> None:
    """Let private training begin from the moments that the server sends, where it averages them.

    Parameters
    ----------
    turn : Turn
        The client's, with its model.
    content : RecordDict
        The message's; without moments, as in round one, they are those of a new optimizer.
    """
    if not averages_moments(turn.server) or turn.closing:
        return
    turn.optimizer = optimizer_of(turn.model, turn.plan)
    received = Moments.find(content)
    for kept, (name, parameter) in zip(turn.optimizer.state, named_learning(turn.model), strict=True):
        kept["exp_avg"] = torch.zeros_like(parameter)
        kept["max_exp_avg_sq"] = torch.full_like(parameter, AMSGRAD[-1] ** 2)
        if received is not None:
            kept["exp_avg"].copy_(received.values[f"mean/{name}"])
            kept["max_exp_avg_sq"].copy_(received.values[f"largest/{name}"])
        squares = turn.recall(f"{SQUARES}/{name}")
        kept["exp_avg_sq"] = torch.zeros_like(parameter) if squares is None else squares.to(parameter.device).clone()


def moments(turn: Turn[Any], model: str) -> Moments:
    """Return the moments after training, under the name of the weights next to them, and remember the squares."""
    assert turn.optimizer is not None
    means, largest = {}, {}
    for kept, (name, _) in zip(turn.optimizer.state, named_learning(turn.model), strict=True):
        means[name], largest[name] = kept["exp_avg"].cpu(), kept["max_exp_avg_sq"].cpu()
        turn.remember(f"{SQUARES}/{name}", kept["exp_avg_sq"])
    return Moments.of_parameters(means, largest, model)
