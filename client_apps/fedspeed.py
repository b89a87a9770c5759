"""FedSpeed (Sun et al. 2023, arXiv 2302.10429): a proximal term, a dual that corrects it, and sharpness-aware steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, evaluate_shared, private_training, reply
from fd_flower.config import ClientConfig, option
from fd_flower.core.errors import InvalidInputError
from fd_flower.objectives.proximal import named_learning, proximal
from fd_flower.training import sharp, supervised
from fd_flower.wire import Weights

app = App()

DUAL = "dual"
"""Under this name the client keeps its dual, by the parameters' keys."""


@dataclass(frozen=True)
class Config(ClientConfig):
    """FedSpeed's options."""

    mu: float = option(0.1, least=0)
    """Weight of the proximal term and of its correction (the paper's 1 / lambda). 0 turns off both, and the dual."""
    rho: float = option(0.1, least=0)
    """Distance up the slope of the loss at which its gradient is taken. 0: at the weights."""

    def __post_init__(self) -> None:
        """Check that the slope is not climbed twice."""
        super().__post_init__()
        if self.sam is not None:
            raise InvalidInputError(
                f"client.sam is {self.sam:g}, and fedspeed has client.rho instead, which leaves its proximal term out: "
                "leave client.sam out"
            )


def objective(model: Module, x: Tensor, y: Tensor, teacher: Sequence[Tensor] | None, config: Config) -> Tensor:
    """Cross-entropy with its gradient up the slope, plus ``mu / 2`` times the squared distance to ``teacher``.

    ``teacher`` has what the weights of ``learning(model)`` are pulled to: the server's less the dual. None leaves the
    second term out.
    """
    loss = sharp(supervised, config.rho)(model, x, y) if config.rho else supervised(model, x, y)
    return loss if teacher is None else loss + proximal(model, teacher, config.mu)


def receive(message: Message, context: Context) -> Turn[Config]:
    """Take the server's model (``turn.collected``), with a loss that pulls to it, and away from earlier drifts."""
    turn: Turn[Config] = Turn.of(message, context)
    turn.collected = weights = Weights.need(message.content)
    model, config = turn.shared(weights), turn.config
    centers = [center(turn, name, weights).to(p.device) for name, p in named_learning(model)] if config.mu else None

    def learn(model: Module, x: Tensor, y: Tensor) -> Tensor:
        return objective(model, x, y, centers, config)

    turn.loss = learn
    return turn


def center(turn: Turn[Config], name: str, weights: Weights) -> Tensor:
    """Return what a parameter is pulled to: the server's, less what the client remembers of its drifts."""
    dual = turn.recall(f"{DUAL}/{name}")
    return weights.values[name] if dual is None else weights.values[name] - dual


def send(message: Message, turn: Turn[Config], *, examples: int | None = None, **metrics: float) -> Message:
    """Send the trained weights; the dual grows by how far they have moved from the server's."""
    start, values = turn.collected, turn.model.state_dict()
    for name, _ in named_learning(turn.model) if turn.config.mu else ():
        turn.remember(f"{DUAL}/{name}", values[name].cpu() - center(turn, name, start))
    return reply(message, turn, Weights(values, start.model), examples=examples, **metrics)


train = private_training(receive, send)

app.train()(train)
app.evaluate()(evaluate_shared)
