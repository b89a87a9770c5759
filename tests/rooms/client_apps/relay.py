"""Relay, a toy: clients count their samples, receive the total, and answer with what they received."""

import torch
from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, reply
from fd_flower.config import ClientConfig
from fd_flower.wire import Prototypes, Weights

app = App()


def objective(model: Module, x: Tensor, y: Tensor, teacher: None, config: ClientConfig) -> Tensor:
    """Learn nothing."""
    return model(x).sum() * 0


@app.query("count")
def count(message: Message, context: Context) -> Message:
    """Say how many samples of each class there are, and remember the round's first exchange."""
    turn = Turn.of(message, context)
    counts = torch.bincount(turn.data.train.labels, minlength=turn.classes)
    earlier = turn.recall("calls")
    turn.remember("calls", torch.zeros(1) if earlier is None else earlier + 1)
    features = turn.world.features(turn.architecture)
    return reply(message, turn, Prototypes(torch.zeros(turn.classes, features), counts), received=0)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer with what was received and remembered."""
    turn = Turn.of(message, context)
    number = Weights.need(message.content).values["number"]
    calls = turn.recall("calls")
    turn.remember("calls", calls + 1)
    return reply(message, turn, received=Prototypes.need(message.content).counts.sum(), number=number, calls=calls)
