"""FedTGP (Zhang et al. 2024, arXiv 2401.03230): the server learns prototypes that lie apart, clients pull to them."""

from flwr.app import Context, Message
from torch import Tensor

from fd_flower.client import App, Turn, fit, reply
from fd_flower.client.prototypes import Config, class_means, measure, on_device, pulled
from fd_flower.config import ClientConfig
from fd_flower.models import FeatureModel
from fd_flower.wire import Prototypes

__all__ = ["Config", "app", "objective"]

app = App()


def objective(model: FeatureModel, x: Tensor, y: Tensor, teacher: Prototypes | None, config: ClientConfig) -> Tensor:
    """Cross-entropy, plus ``kd_weight`` (lambda) times the squared distance to the class's prototype, mean over F."""
    return pulled(model, x, y, teacher, config.kd_weight)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Learn from private data with features near the prototypes, and send the mean features of what was learned."""
    turn: Turn[Config] = Turn.of(message, context)
    received = on_device(turn, Prototypes.find(message.content))

    def learn(model: FeatureModel, x: Tensor, y: Tensor) -> Tensor:
        return objective(model, x, y, received, turn.config)

    loss = fit(turn, learn, turn.data.train)
    measure(turn, "trained", received)
    return reply(message, turn, class_means(turn), loss=loss)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the personal model with what it receives."""
    turn: Turn[Config] = Turn.of(message, context)
    measure(turn, "received", on_device(turn, Prototypes.find(message.content)))
    return reply(message, turn)
