"""FedTGP (Zhang et al. 2024, arXiv 2401.03230): the server trains well-separated prototypes; clients pull to them."""

from flwr.app import Context, Message
from torch import Tensor

from fd_flower.client import App, Turn, private_training, prototypes, reply
from fd_flower.client.prototypes import Config, measure, pulled, send
from fd_flower.config import ClientConfig
from fd_flower.models import FeatureModel
from fd_flower.wire import Prototypes

__all__ = ["Config", "app", "objective", "receive", "send"]

app = App()


def objective(model: FeatureModel, x: Tensor, y: Tensor, teacher: Prototypes | None, config: ClientConfig) -> Tensor:
    """Cross-entropy, plus ``kd_weight`` (lambda) times the squared distance to the class's prototype, mean over F."""
    return pulled(model, x, y, teacher, config.kd_weight)


def receive(message: Message, context: Context) -> Turn[Config]:
    """Take the prototypes into the loss."""
    return prototypes.receive(message, context, objective)


train = private_training(receive, send, measure)

app.train()(train)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the personal model with what it receives."""
    turn = receive(message, context)
    measure(turn, "received")
    return reply(message, turn)
