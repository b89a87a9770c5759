"""FedTGP (Zhang et al. 2024, arXiv 2401.03230): the server learns prototypes that lie apart, clients pull to them."""

from typing import Any

from flwr.app import Context, Message
from torch import Tensor
from torch.utils.data import Dataset

from fd_flower.client import App, Turn, fit, reply
from fd_flower.client.prototypes import Config, class_means, measure, on_device, pulled
from fd_flower.config import ClientConfig
from fd_flower.core.samples import Samples
from fd_flower.models import FeatureModel
from fd_flower.wire import Prototypes

__all__ = ["Config", "app", "objective"]

app = App()


def objective(model: FeatureModel, x: Tensor, y: Tensor, teacher: Prototypes | None, config: ClientConfig) -> Tensor:
    """Cross-entropy, plus ``kd_weight`` (lambda) times the squared distance to the class's prototype, mean over F."""
    return pulled(model, x, y, teacher, config.kd_weight)


def receive(message: Message, context: Context) -> Turn[Config]:
    """Take the prototypes (``turn.collected``) into the loss."""
    turn: Turn[Config] = Turn.of(message, context)
    received = on_device(turn, Prototypes.find(message.content))

    def learn(model: FeatureModel, x: Tensor, y: Tensor) -> Tensor:
        return objective(model, x, y, received, turn.config)

    turn.loss, turn.collected = learn, received
    return turn


def send(
    message: Message,
    turn: Turn[Config],
    *,
    own: "Dataset[Any] | Samples | None" = None,
    examples: int | None = None,
    **metrics: float,
) -> Message:
    """Send the mean features of what was learned; where the task has no data, of the training samples ``own``."""
    return reply(message, turn, class_means(turn, own), examples=examples, **metrics)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Learn from private data with features near the prototypes, and send the mean features of what was learned."""
    turn = receive(message, context)
    loss = fit(turn, turn.loss, turn.data.train)
    measure(turn, "trained", turn.collected)
    return send(message, turn, loss=loss)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the personal model with what it receives."""
    turn = receive(message, context)
    measure(turn, "received", turn.collected)
    return reply(message, turn)
