"""FedRE (Yao et al. 2025, arXiv 2511.22265): one entangled representation per client trains a shared head."""

from dataclasses import dataclass

import torch
from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Own, Turn, heads, private_training, reply
from fd_flower.config import ClientConfig, one_of
from fd_flower.generate.entangled import RULES, entangled
from fd_flower.models import feature_model
from fd_flower.training import forward, supervised
from fd_flower.wire import Head, Payload, Representation

app = App()


@dataclass(frozen=True)
class Config(heads.Config):
    """FedRE's options."""

    entangle: str = one_of(*RULES, default="rap")
    """How a client mixes its features: `rap`, `vap`, `rar`, `var` or `rsr` (see `fd_flower.generate.entangled`)."""


def objective(model: Module, x: Tensor, y: Tensor, teacher: None, config: ClientConfig) -> Tensor:
    """Cross-entropy on own labels [B]: what is shared is in the head."""
    return supervised(model, x, y)


def send(
    message: Message,
    turn: Turn[Config],
    *,
    own: Own = None,
    examples: int | None = None,
    **metrics: float,
) -> Message:
    """Send one entangled representation; where the task has no data, of the training samples ``own``."""
    return reply(message, turn, *representation(turn, own), examples=examples, **metrics)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the personal model with the server's last head."""
    turn = receive(message, context)
    turn.evaluate("received")
    return reply(message, turn)


def receive(message: Message, context: Context) -> Turn[Config]:
    """Take the server's head into the client's model."""
    turn: Turn[Config] = Turn.of(message, context)
    heads.take(turn, Head.need(message.content))
    return turn


@torch.no_grad()
def representation(turn: Turn[Config], own: Own = None) -> list[Payload]:
    """Return the entangled representation of all training samples, from the trained model; empty without samples."""
    model, samples = feature_model(turn.model), turn.samples(own)
    if not len(samples):
        return []
    model.eval()
    seen = forward(model.features, samples, precision=turn.precision)
    features = [part.float().cpu() for part, _ in seen]
    mixed = entangled(
        turn.config.entangle, torch.cat(features), samples.labels.cpu(), turn.classes, turn.rng("entangle")
    )
    return [Representation(*mixed)]


train = private_training(receive, send)

app.train()(train)
