"""FedProx (Li et al. 2020, arXiv 1812.06127): FedAvg with a proximal term toward the server's weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flwr.app import ConfigRecord, Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, evaluate_shared, private_training, received, send_shared
from fd_flower.client.amsgrad import with_shared_moments
from fd_flower.client.tracking import TrackingClientConfig, keep_track, track
from fd_flower.config import option
from fd_flower.objectives.proximal import learning, proximal
from fd_flower.training import supervised
from fd_flower.wire.envelope import records

app = App()


@dataclass(frozen=True)
class Config(TrackingClientConfig):
    """FedProx's options."""

    mu: float = option(1.0, least=0)
    """Weight of half the squared distance to the server's weights; 0 is FedAvg."""


def objective(model: Module, x: Tensor, y: Tensor, teacher: Sequence[Tensor], config: Config) -> Tensor:
    """Cross-entropy, plus ``mu / 2`` times the squared distance of all parameters to the server's (equation 2).

    ``teacher`` has what the server has of ``learning(model)``, in this order. With ``mu`` 0 the second term is not
    taken at all, so that not even a sign of zero differs from FedAvg.
    """
    loss = supervised(model, x, y)
    return loss if config.mu == 0 else loss + proximal(model, teacher, config.mu)


def receive(message: Message, context: Context) -> Turn[Config]:
    """Take the server's model, with a loss that does not let it go far from there.

    Where Flower's own FedProx asks, its ``proximal-mu`` takes the place of ``mu``.
    """
    turn: Turn[Config] = Turn.of(message, context)
    mu = records(message.content, ConfigRecord).get("config", ConfigRecord()).get("proximal-mu")
    config = replace(turn.config, mu=float(mu)) if isinstance(mu, int | float) else turn.config
    weights = received(turn, message.content)
    model = turn.shared(weights)
    start = [parameter.detach().clone() for parameter in learning(model)]

    def learn(model: Module, x: Tensor, y: Tensor) -> Tensor:
        return objective(model, x, y, start, config)

    turn.loss = learn
    track(turn, weights)
    with_shared_moments(turn, message.content)
    return turn


def send(message: Message, turn: Turn[Config], *, examples: int | None = None, **metrics: float) -> Message:
    """Send the trained model's weights."""
    keep_track(turn)
    return send_shared(message, turn, examples=examples, **metrics)


train = private_training(receive, send)

app.train()(train)
app.evaluate()(evaluate_shared)
