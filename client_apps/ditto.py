"""Ditto (Li et al. 2021, arXiv 2012.04221): personal models are held near the average of what clients also train."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from flwr.app import Context, Message
from torch import Tensor

from fd_flower.client import App, Turn, informed, private_training, received, reply, to_send
from fd_flower.config import AveragingClientConfig, option
from fd_flower.objectives.proximal import learning, proximal
from fd_flower.training import Pair, supervised

app = App()


@dataclass(frozen=True)
class Config(AveragingClientConfig):
    """Ditto's options."""

    mu: float = option(1.0, least=0)
    """Weight of half the squared distance between the personal model and the server's (the paper's lambda). 0: the
    personal model is trained locally."""


def objective(model: Pair, x: Tensor, y: Tensor, teacher: Sequence[Tensor], config: Config) -> Tensor:
    """Both models' cross-entropies, plus ``mu / 2`` times the personal one's squared distance to the server's.

    ``teacher`` has what the server has of ``learning(model.own)``, in this order.
    """
    loss = supervised(model.own, x, y) + supervised(model.shared, x, y)
    return loss if config.mu == 0 else loss + proximal(model.own, teacher, config.mu)


def receive(message: Message, context: Context) -> Turn[Config]:
    """Take the personal model and the server's as one pair, with a loss that does not let the first go far."""
    turn: Turn[Config] = Turn.of(message, context)
    weights = received(turn, message.content)
    turn.model = pair = Pair(turn.personal, turn.peer(weights.model or turn.architecture, weights))
    start = [parameter.detach().clone() for parameter in learning(pair.shared)]

    def learn(model: Pair, x: Tensor, y: Tensor) -> Tensor:
        return objective(model, x, y, start, turn.config)

    turn.loss = learn
    return turn


def send(message: Message, turn: Turn[Config], *, examples: int | None = None, **metrics: float) -> Message:
    """Send what the server's model has learned."""
    shared = cast("Pair", turn.model).shared
    sent = to_send(turn, message.content, shared.state_dict())
    return reply(message, turn, *informed(turn, sent, shared), examples=examples, **metrics)


def measure(turn: Turn[Config], point: str) -> None:
    """Evaluate the personal model, and the server's in addition."""
    pair = cast("Pair", turn.model)
    turn.evaluate(point, pair.own, others={"shared": pair.shared})


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the personal model, untrained, and the server's."""
    turn = receive(message, context)
    measure(turn, "received")
    return reply(message, turn)


train = private_training(receive, send, measure)

app.train()(train)
