"""FedDF (Lin et al. 2020, arXiv 2006.07242): the server distills the clients' ensemble into one model."""

from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, evaluate_shared, private_training, reply
from fd_flower.config import ClientConfig
from fd_flower.training import supervised
from fd_flower.wire import Weights

app = App()


def objective(model: Module, x: Tensor, y: Tensor, teacher: None, config: ClientConfig) -> Tensor:
    """Cross-entropy on own labels [B]: the distillation is the server's."""
    return supervised(model, x, y)


def receive(message: Message, context: Context) -> Turn:
    """Take the student of the client's architecture."""
    turn = Turn.of(message, context)
    turn.shared(Weights.need(message.content))
    return turn


def send(message: Message, turn: Turn, *, examples: int | None = None, **metrics: float) -> Message:
    """Send the trained student's weights."""
    weights = Weights(turn.model.state_dict(), Weights.need(message.content).model)
    return reply(message, turn, weights, examples=examples, **metrics)


train = private_training(receive, send)

app.train()(train)
app.evaluate()(evaluate_shared)
