"""FedLEx (Internò et al. 2024, arXiv 2506.18640): how far clients move each weight in round one guides later steps.

With ``server.guidance=prune`` it is AutoFLIP (Internò et al. 2024, arXiv 2405.10271): weights that hardly move are
pruned. With ``server.guidance=rows`` it is Federated Pruning (Lin et al. 2022, arXiv 2209.06359): rows of the smallest
norm are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, private_training, reply
from fd_flower.config import ClientConfig, option
from fd_flower.objectives.proximal import learning, named_learning, with_gradient
from fd_flower.training import LOCAL, counted_as, optimizer_of, supervised
from fd_flower.training import train as train_model
from fd_flower.wire import Correction, Mask, Weights
from fd_flower.wire.weights import learning as learning_keys

app = App()


@dataclass(frozen=True)
class Config(ClientConfig):
    """FedLEx's options."""

    explore_epochs: int | None = option(150, least=0)
    """Epochs of the exploration in round one, on a copy of the model; None: the round's own training is the
    exploration. `server.guidance=rows` has none."""
    explore_patience: int = option(40, least=1)
    """Epochs of the exploration without a lower training loss after which it ends."""


def objective(model: Module, x: Tensor, y: Tensor, teacher: Sequence[Tensor] | None, config: ClientConfig) -> Tensor:
    """Cross-entropy on own labels [B], with a gradient that is multiplied by ``teacher``, of ``learning(model)``.

    None changes nothing, as ones do.
    """
    loss = supervised(model, x, y)
    if teacher is None:
        return loss
    parameters = learning(model)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    known = [(own, slope * by) for own, slope, by in zip(parameters, found, teacher, strict=True) if slope is not None]
    return loss.detach() + with_gradient([own for own, _ in known], [slope for _, slope in known])


def receive(message: Message, context: Context) -> Turn[Config]:
    """Take the server's model, and its guide into the loss; the weights that were loaded are ``turn.collected``."""
    turn: Turn[Config] = Turn.of(message, context)
    weights, mask, scales = Weights.need(message.content), Mask.find(message.content), Correction.find(message.content)
    if mask is not None:
        weights = replace(weights, values=mask.restored(weights.values, turn.world.initial(turn.architecture)))
    turn.collected = weights
    model = turn.shared(weights)
    guide = None if scales is None else scales.values
    if mask is not None:
        guide = {key: kept.float() for key, kept in mask.kept(weights.values).items()}
    if guide is not None:
        by = [guide.get(name, torch.ones(())).to(own.device, own.dtype) for name, own in named_learning(model)]
        turn.loss = lambda model, x, y: objective(model, x, y, by, turn.config)
    return turn


def explored(turn: Turn[Config], start: Weights) -> dict[str, Tensor]:
    """Return the squared distance by which the exploration moves each number that learns.

    Parameters
    ----------
    turn : Turn
        The client's, after its own training.
    start : Weights
        Where it begins.

    Returns
    -------
    dict[str, Tensor]
        By key, in the weights' shapes and types.
    """
    config, epochs = turn.config, turn.config.explore_epochs
    if epochs is None:
        return squared_distances(start.values, turn.model.state_dict())
    model = turn.peer(turn.architecture, start)
    plan = replace(turn.plan, epochs=1, steps=None)
    optimizer = optimizer_of(model, plan)
    lowest, waited = math.inf, 0
    with counted_as(LOCAL):
        for epoch in range(epochs):
            rng = turn.rng(f"explore {epoch}")
            loss = train_model(model, supervised, turn.data.train, plan=plan, rng=rng, optimizer=optimizer)
            lowest, waited = (loss, 0) if loss < lowest else (lowest, waited + 1)
            if waited >= config.explore_patience:
                break
    return squared_distances(start.values, model.state_dict())


def squared_distances(start: Mapping[str, Tensor], end: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return (end - start)^2 of each number that learns, by key, in its type."""
    return {key: (end[key].detach().cpu() - start[key]).square() for key in learning_keys(start)}


def send(message: Message, turn: Turn[Config], *, examples: int | None = None, **metrics: float) -> Message:
    """Send the trained weights, without pruned ones; where there is no guide yet, explore, and send deviations, too."""
    start, mask = turn.collected, Mask.find(message.content)
    values = turn.model.state_dict()
    sent = Weights(values if mask is None else mask.reduced(values), start.model)
    if turn.server.guidance == "rows" or mask is not None or Correction.find(message.content) is not None:
        return reply(message, turn, sent, examples=examples, **metrics)
    deviations = Correction(explored(turn, start), start.model)
    return reply(message, turn, sent, deviations, examples=examples, **metrics)


app.train()(private_training(receive, send))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the model whose weights the client receives."""
    turn = receive(message, context)
    turn.evaluate("received")
    return reply(message, turn)
