"""FedGH (Yi et al. 2023, arXiv 2303.13137): the server trains one head for all clients on their class means."""

from flwr.app import Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Own, Turn, heads, private_training, reply
from fd_flower.client.heads import Config, receive
from fd_flower.client.prototypes import class_means
from fd_flower.config import ClientConfig
from fd_flower.training import supervised

__all__ = ["Config", "app", "objective", "receive", "send"]

app = App()


def objective(model: Module, x: Tensor, y: Tensor, teacher: None, config: ClientConfig) -> Tensor:
    """Cross-entropy on own labels [B]: what is shared is in the head."""
    return supervised(model, x, y)


def send(
    message: Message, turn: Turn[Config], *, own: Own = None, examples: int | None = None, **metrics: float
) -> Message:
    """Send the mean feature of each class; where the task has no data, of the training samples ``own``."""
    return reply(message, turn, class_means(turn, own), examples=examples, **metrics)


train = private_training(receive, send)

app.train()(train)
app.evaluate()(heads.evaluate)
