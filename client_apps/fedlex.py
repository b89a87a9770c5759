"""FedLEx (Internò et al. 2025, arXiv 2506.18640): a round of exploration guides how much each parameter learns."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import torch
from flwr.app import Context, Message
from torch import Tensor
from torch.func import functional_call
from torch.nn import Module

from fd_flower.client import App, Turn, evaluate_shared, private_training, received
from fd_flower.client import send_shared as send
from fd_flower.config import AveragingClientConfig, ClientConfig, option
from fd_flower.objectives.proximal import named_learning
from fd_flower.training import supervised
from fd_flower.wire import Guidance

app = App()


@dataclass(frozen=True)
class Config(AveragingClientConfig):
    """FedLEx's options."""

    explore_epochs: int | None = option(None, least=0)
    """Epochs of the exploring round; None: `client.epochs` or `client.steps`, as in all others."""


@final
class Guided(torch.autograd.Function):
    """An unchanged parameter whose gradient is multiplied by its guidance."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, factors: Tensor) -> Tensor:
        """Return the parameter."""
        ctx.save_for_backward(factors)
        return parameter.view_as(parameter)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient times the factors."""
        (factors,) = ctx.saved_tensors
        return gradient * factors, None


def objective(
    model: Module, x: Tensor, y: Tensor, teacher: Mapping[str, Tensor] | None, config: ClientConfig
) -> Tensor:
    """Cross-entropy on own labels [B], whose gradients are multiplied by ``teacher``, a factor for each number."""
    if teacher is None:
        return supervised(model, x, y)
    own: dict[str, Tensor] = dict(model.named_parameters())
    guided = {key: Guided.apply(own[key], factors) for key, factors in teacher.items()}  # type: ignore[no-untyped-call]
    return supervised(lambda inputs: functional_call(model, guided, (inputs,)), x, y)


def receive(message: Message, context: Context) -> Turn[Config]:
    """Take the server's model, with the loss of a guided turn, or of an exploring one where nothing guides yet."""
    turn: Turn[Config] = Turn.of(message, context)
    model = turn.shared(received(turn, message.content))
    found = Guidance.find(message.content)
    if found is None:
        if turn.server.guidance != "none" and turn.config.explore_epochs is not None:
            turn.config = replace(turn.config, epochs=turn.config.explore_epochs, steps=None)
        return turn
    place = dict(named_learning(model))
    factors = {key: t.to(place[key].device, place[key].dtype) for key, t in found.values.items() if key in place}
    turn.loss = partial(objective, teacher=factors, config=turn.config)
    return turn


train = private_training(receive, send)

app.train()(train)
app.evaluate()(evaluate_shared)
