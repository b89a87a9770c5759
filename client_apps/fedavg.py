"""FedAvg (McMahan et al. 2017, arXiv 1602.05629): clients train one model, the server averages its weights."""

from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, evaluate_shared, private_training, reply
from fd_flower.config import ClientConfig
from fd_flower.training import supervised
from fd_flower.wire import Weights

app = App()


def objective(model: Module, x: Tensor, y: Tensor, teacher: None, config: ClientConfig) -> Tensor:
    """Cross-entropy on own labels [B]."""
    return supervised(model, x, y)


def receive(message: Message, context: Context) -> Turn:
    """Take the server's model."""
    turn = Turn.of(message, context)
    turn.shared(Weights.need(message.content))
    return turn


def send(message: Message, turn: Turn, *, examples: int | None = None, **metrics: float) -> Message:
    """Send the trained model's weights."""
    return reply(message, turn, Weights(turn.model.state_dict()), examples=examples, **metrics)


train = private_training(receive, send)

app.train()(train)
app.evaluate()(evaluate_shared)
