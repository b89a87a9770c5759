"""FedDF (Lin et al. 2020, arXiv 2006.07242): the server distills the clients' ensemble into one student."""

from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, evaluate_shared, fit, reply
from fd_flower.config import ClientConfig
from fd_flower.training import supervised
from fd_flower.wire import Weights

app = App()


def objective(model: Module, x: Tensor, y: Tensor, teacher: None, config: ClientConfig) -> Tensor:
    """Cross-entropy on own labels [B]: the distillation is the server's."""
    return supervised(model, x, y)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the student of the client's architecture on private data and send its weights."""
    turn = Turn.of(message, context)
    received = Weights.need(message.content)
    model = turn.shared(received)
    loss = fit(turn, supervised, turn.data.train)
    turn.evaluate("trained")
    return reply(message, turn, Weights(model.state_dict(), received.model), loss=loss)


app.evaluate()(evaluate_shared)
