"""FedAvg (McMahan et al. 2017, arXiv 1602.05629): clients train one model, the server averages its weights."""

from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, evaluate_shared, fit, reply
from fd_flower.config import ClientConfig
from fd_flower.training import supervised
from fd_flower.wire import Weights

app = App()


def objective(model: Module, x: Tensor, y: Tensor, teacher: None, config: ClientConfig) -> Tensor:
    """Cross-entropy on own labels [B]."""
    return supervised(model, x, y)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the server's model on private data and send its weights."""
    turn = Turn.of(message, context)
    model = turn.shared(Weights.need(message.content))
    loss = fit(turn, supervised, turn.data.train)
    turn.evaluate("trained")
    return reply(message, turn, Weights(model.state_dict()), loss=loss)


app.evaluate()(evaluate_shared)
