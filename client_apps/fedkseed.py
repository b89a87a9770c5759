"""FedKSeed (Qin et al. 2023, arXiv 2312.06353): models are tuned by numbers of directions and a scalar for each."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, reply
from fd_flower.config import ClientConfig, option
from fd_flower.core.errors import InvalidInputError
from fd_flower.training import LOCAL, batches, count, supervised
from fd_flower.training.loop import draws_of
from fd_flower.training.zeroth import advance, learning, replay, slope
from fd_flower.wire import SeedScalars

app = App()


@dataclass(frozen=True)
class Config(ClientConfig):
    """FedKSeed's options."""

    eps: float = option(5e-4, above=0)
    """How far along a direction the two losses are taken."""
    max_step: float = option(1.0, above=0)
    """Most that a step goes along its direction, so that a rate that is too large ends in a bad model, not in none."""

    def __post_init__(self) -> None:
        """Check that nothing is asked for that needs gradients."""
        super().__post_init__()
        for name in ("sam", "clip", "momentum", "weight_decay"):
            if value := getattr(self, name):
                raise InvalidInputError(
                    f"client.{name} is {value:g}, and fedkseed's steps have no gradient: leave it out"
                )


def objective(model: Module, x: Tensor, y: Any, teacher: None, config: ClientConfig) -> Tensor:
    """Cross-entropy on own labels [B], or the model's own loss; nothing is differentiated."""
    return supervised(model, x, y)


def rebuilt(message: Message, context: Context) -> Turn[Config]:
    """Make the server's model of the first weights and all steps so far."""
    turn: Turn[Config] = Turn.of(message, context)
    received = SeedScalars.need(message.content)
    model = turn.shared(None)
    replay(learning(model), turn.world.settings.run.seed, received.directions, received.values)
    return turn


@app.train()
def train(message: Message, context: Context) -> Message:
    """Take steps along drawn directions on private data, and send them."""
    turn = rebuilt(message, context)
    directions, values, loss = steps(turn)
    turn.evaluate("trained")
    return reply(message, turn, SeedScalars(values, directions), loss=loss)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the server's model."""
    turn = rebuilt(message, context)
    turn.evaluate("received")
    return reply(message, turn)


def steps(turn: Turn[Config]) -> tuple[Tensor, Tensor, float]:
    """Take steps; return their directions [n] int32 and scalars [n] float32, and the mean loss."""
    model, samples, seed = turn.model, turn.data.train, turn.world.settings.run.seed
    parameters, rng, plan = learning(model), turn.rng("private"), turn.plan
    model.eval()  # a step compares two losses of one batch: nothing else may differ
    directions: list[int] = []
    values: list[float] = []
    losses: list[float] = []
    drawn = turn.rng("directions")
    for rows in batches(len(samples), plan, rng, samples.x.device):
        x, y = samples.batch(rows, draws_of(rng, len(values)))
        direction = int(torch.randint(turn.server.candidates, (), generator=drawn))
        found, loss = slope(
            partial(objective, model, x, y, None, turn.config), parameters, seed, direction, turn.config.eps
        )
        most = turn.config.max_step if math.isfinite(found) else 0.0
        scalar = float(torch.tensor(max(-most, min(most, plan.lr * found))))  # float32, as it travels
        advance(parameters, seed, direction, -scalar)
        count(LOCAL)
        directions.append(direction)
        values.append(scalar)
        losses.append(loss)
    mean = sum(losses) / len(losses) if losses else 0.0
    return torch.tensor(directions, dtype=torch.int32), torch.tensor(values, dtype=torch.float32), mean
