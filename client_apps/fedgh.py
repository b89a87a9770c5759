"""FedGH (Yi et al. 2023, arXiv 2303.13137): the server trains one head for all clients on their class means."""

from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Own, Turn, heads, private_training, reply
from fd_flower.client.heads import Config
from fd_flower.client.prototypes import class_means
from fd_flower.config import ClientConfig
from fd_flower.training import supervised
from fd_flower.wire import Head

__all__ = ["Config", "app", "objective", "receive", "send"]

app = App()


def objective(model: Module, x: Tensor, y: Tensor, teacher: None, config: ClientConfig) -> Tensor:
    """Cross-entropy on own labels [B]: what is shared is in the head."""
    return supervised(model, x, y)


def receive(message: Message, context: Context) -> Turn[Config]:
    """Take the server's head into the client's model."""
    turn: Turn[Config] = Turn.of(message, context)
    heads.take(turn, Head.need(message.content))
    return turn


def send(
    message: Message, turn: Turn[Config], *, own: Own = None, examples: int | None = None, **metrics: float
) -> Message:
    """Send the mean feature of each class; where the task has no data, of the training samples ``own``."""
    return reply(message, turn, class_means(turn, own), examples=examples, **metrics)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the personal model with the server's last head."""
    turn = receive(message, context)
    turn.evaluate("received")
    return reply(message, turn)


train = private_training(receive, send)

app.train()(train)
