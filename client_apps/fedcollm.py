"""FedCoLLM (Fan et al. 2024, arXiv 2411.11707): a large language model teaches the mean of small ones."""

from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, evaluate_shared, private_training, received
from fd_flower.client import send_shared as send
from fd_flower.config import AveragingClientConfig as Config
from fd_flower.config import ClientConfig
from fd_flower.training import supervised

app = App()


def objective(model: Module, x: Tensor, y: Tensor, teacher: None, config: ClientConfig) -> Tensor:
    """Next-token loss on private texts: the large model teaches at the server."""
    return supervised(model, x, y)


def receive(message: Message, context: Context) -> Turn[Config]:
    """Take the server's mean, after the large model has taught it."""
    turn: Turn[Config] = Turn.of(message, context)
    turn.shared(received(turn, message.content))
    return turn


train = private_training(receive, send)

app.train()(train)
app.evaluate()(evaluate_shared)
